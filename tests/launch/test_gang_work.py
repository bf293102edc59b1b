"""Work on a gang's ranks: how a job travels, and what a rank makes of it; without a Ray."""

from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from engine.errors import InvalidInput
from engine.progress import Progress
from launch.calibration.job import CalibrateJob, CalibrateOptions, prepare_calibration
from launch.commands import ranks as ranks_module
from launch.commands.ranks import run_work
from launch.gang import work as work_module
from launch.gang.assignment import RankAssignment
from launch.gang.worker import Worker, WorkOutcome
from launch.jobs.elsewhere import GangWork
from launch.mlperf.job import MlperfOptions, prepare_mlperf
from launch.mlperf.standard import Scenario
from launch.ranks.place import Launcher
from launch.sweep.job import SweepOptions, prepare_sweep
from parallel.place import Place
from tests.support.shell import Refused
from tests.support.small_model import CONFIG

SMALL = (
    "sampling.steps=8",
    "sampling.frames=5",
    "sampling.height=32",
    "sampling.width=32",
    "runtime.device=cpu",
    "parallel.cfg=2",
)


@pytest.fixture(params=["sweep", "calibrate", "mlperf"])
def job(request: pytest.FixtureRequest, tmp_path: Path, tiny_checkpoint: Path) -> GangWork:
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    overrides = [f"model.path={tiny_checkpoint}", *SMALL]
    if request.param == "sweep":
        options = SweepOptions(str(CONFIG), tmp_path / "prompts.txt", tmp_path / "out", overrides, methods="dicache")
        return prepare_sweep(options, Place(elsewhere=True))
    if request.param == "mlperf":
        pytest.importorskip("mlperf_loadgen")
        test = MlperfOptions(
            str(CONFIG), Scenario.OFFLINE, tmp_path / "prompts.txt", tmp_path / "out", [*overrides, "sampling.steps=8"]
        )
        return prepare_mlperf(test, Place(elsewhere=True))
    return prepare_calibration(
        CalibrateOptions(str(CONFIG), tmp_path / "prompts.txt", tmp_path / "out.json", overrides), Place(elsewhere=True)
    )


def show(job: GangWork, progress: Progress, rank: int) -> tuple[GangWork, int]:
    progress.stage("denoise")
    return job, rank


def refuse(job: GangWork, progress: Progress, rank: int) -> None:
    progress.stage("denoise")
    raise RuntimeError("broken")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    for name in ("MASTER_PORT", "TMPDIR"):
        monkeypatch.setenv(name, "")
    worker = Worker()
    worker._assignment = RankAssignment(1, 2, 0, 1, 1, 2, [], "/nowhere")
    return worker


def test_a_rank_finds_its_own_model_and_writes_into_its_mirror(job: GangWork, worker: Worker) -> None:
    there = job.settled(lambda config, tasks: config.model_copy(update={"model": replace_path(config.model)}))
    assert there.config.model.path == "/as/on/the/driver"
    assert worker.open_mirror(True).failure is None
    outcome: Any = worker.work(29400, there, show)
    assert isinstance(outcome, WorkOutcome), outcome.failure
    here, rank = outcome.result
    assert rank == 1 and here.config.model.path == job.config.model.path, "that of the node, not of the driver"
    assert here.config.runtime.step_timeout_seconds == 2 * job.config.runtime.step_timeout_seconds
    assert here.output.name == job.output.name and here.output.parent != job.output.parent
    assert {path.parent for path in here.owned} == {here.output.parent}
    if isinstance(job, CalibrateJob):
        assert [path.name for path in here.owned] == ["out.json", "out.partial"]
    worker.close_mirror()
    assert not here.output.parent.exists()


def replace_path(model: Any) -> Any:
    return model.model_copy(update={"path": "/as/on/the/driver"})


def test_what_a_rank_raises_names_it_and_its_phase(job: GangWork, worker: Worker) -> None:
    worker.open_mirror(False)
    failure = worker.work(29400, job, refuse).failure
    assert str(failure) == "rank 1 failed in denoise step 0: RuntimeError: broken"
    relative: Any = job
    first = relative.requests[0].model_copy(update={"image": Path("beside/me.png")})
    failure = worker.work(29400, replace(relative, requests=[first]), show).failure
    assert failure is not None and failure.invalid_input
    assert "/nowhere" in str(failure) and "in a folder that all nodes share" in str(failure)


def test_the_launcher_decides_who_starts_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    def on_ray(prepare: Any, work: Any, summarise: Any, ranks: int | None, address: str | None) -> int:
        done.append(("ray", ranks, address))
        return 0

    def on_ranks(place: Place, prepare: Any, work: Any, summarise: Any) -> int:
        done.append(("here", place.ranks, None))
        return 0

    def nothing(outcome: object, stream: IO[str]) -> None: ...

    monkeypatch.setattr(work_module, "run_work_on_ray", on_ray)
    monkeypatch.setattr(ranks_module, "run_on_ranks", on_ranks)
    prepare: Any = None
    for launcher, address in [(Launcher.RAY, "10.0.0.1:6379"), (Launcher.LOCAL, None), (None, None)]:
        assert run_work(launcher, 2, address, prepare, show, nothing) == 0
    assert done == [("ray", 2, "10.0.0.1:6379"), ("here", 2, None), ("here", 2, None)]
    with pytest.raises(InvalidInput, match="--ray-address is x:1, but --launcher is local: add --launcher ray"):
        run_work(None, 2, "x:1", prepare, show, nothing)
    with pytest.raises(InvalidInput, match="HOST:PORT"):
        run_work(Launcher.RAY, 2, "no address", prepare, show, nothing)


@pytest.mark.parametrize("command", ["sweep", "calibrate"])
def test_a_cluster_needs_its_launcher(command: str, refused: Refused) -> None:
    line = refused([command, str(CONFIG), "--prompts=p.txt", "--output=o", "--ray-address=a:1"])
    assert "add --launcher ray" in line
    line = refused([command, str(CONFIG), "--prompts=p.txt", "--output=o", "--launcher=torchrun"])
    assert "torchrun --nproc-per-node N -m launch " + command in line
