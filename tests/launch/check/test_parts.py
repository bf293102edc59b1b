"""What a check is made of, without its processes."""

import getpass
import json
import os
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.execution.versions import describe_all_versions
from launch.check.crowding import Clocks
from launch.check.document import CheckDocument, without_names
from launch.check.finding import State, falls_short, holds, judged
from launch.check.large_model import Step, large_model
from launch.check.lines import links as of_links
from launch.check.lines.kernels import Measured, shortfalls, slow_shapes
from launch.check.lines.layers import judge
from launch.check.lines.synchronisations import count
from launch.check.machine import describe_machine
from launch.check.reference import read_reference
from launch.check.run import _written
from launch.check.site import Site
from launch.check.table import lines_for
from launch.check.video import config_for, loaded, make, relative_error, request_of
from launch.check.worker import _worst
from tests.support.check_site import small_config


def site(tmp_path: Path, ranks: int = 1, local_ranks: int = 1, kind: str = "cpu") -> Site:
    return Site(small_config(), kind, 0, ranks, local_ranks, tmp_path)


def test_the_stored_result_is_what_the_engine_makes(tmp_path: Path) -> None:
    """A change that moves it has to say so: python -m launch.check.reference."""
    config = config_for(site(tmp_path))
    with loaded(config) as engine:
        made = make(engine, request_of(config))
    latents, actions = read_reference()
    assert made.actions == actions and relative_error(made.latents, latents) < 1e-5
    assert {action for _, _, action in actions} == {"warmup", "compute", "skip"}


def test_no_name_of_a_person_or_a_place_is_left() -> None:
    text = f"OSError: /home/ada/models/wan/x.bin on {socket.gethostname()} of {getpass.getuser()}, 3.5 GB/s, a/b"
    hidden = without_names(text, ["secret"])
    assert "/home" not in hidden and "models" not in hidden and "x.bin" in hidden and "3.5 GB/s, a/b" in hidden
    if len(socket.gethostname()) > 2:
        assert socket.gethostname() not in hidden
    assert without_names("a secret word", ["secret"]) == "a … word"


def test_the_machine_is_described_without_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("CUDA_HOME", "/home/ada/cuda")
    monkeypatch.setenv("NCCL_TOPO_FILE", "topology.xml")
    machine = describe_machine()
    assert machine["settings"]["NCCL_DEBUG"] == "INFO" and machine["cores"] >= 1 and machine["memory_gigabytes"] > 0
    assert not {"CUDA_HOME", "NCCL_TOPO_FILE"} & machine["settings"].keys()
    assert "ada" not in json.dumps(machine) and describe_all_versions().keys() >= {"python", "torch", "xfuser", "numpy"}


def test_the_driver_is_asked_as_nvidia_smi_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$1" in topo) printf "\\033[4mGPU0\\tGPU1\\033[0m\\nX\\tNV18\\n";;\n'
        '*) echo "NVIDIA H100, 580.1, 81559 MiB, 700.00 W, 1980 MHz, Enabled, Disabled";; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    machine = describe_machine()
    assert machine["gpus"][0]["name"] == "NVIDIA H100" and machine["gpus"][0]["driver_version"] == "580.1"
    assert machine["topology"] == ["GPU0    GPU1", "X       NV18"]


def test_layouts_are_all_that_the_ranks_permit() -> None:
    def names(ranks: int) -> list[str]:
        return [line.name for line in lines_for(ranks, small_config()) if line.name.startswith("layout")]

    assert names(1) == []
    assert names(2) == [
        "layout ulysses 2",
        "layout ring 2",
        "layout cfg 2",
        "layout ring 2 with weights shared out",
        "layout data 2",
    ]
    assert len(names(8)) == 8 and "layout cfg 2 x ulysses 2 x ring 2" in names(8), "4 heads: no ulysses 8"
    assert len({line.name for line in lines_for(8, small_config())}) == len(lines_for(8, small_config()))


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ({(0, 1): 100.0, (1, 2): 20.0}, "ranks 1 and 2 have 20 GB/s, where others have 1e+02"),
        ({(0, 1): 100.0, (1, 2): 4.0}, "ranks 1 and 2 have 4 GB/s, below 5"),
        ({(0, 1): 100.0, (3, 4): 20.0}, ""),  # to another machine
        ({(0, 1): 100.0, (3, 4): 0.5}, "ranks 3 and 4 have 0.5 GB/s, below 1"),
    ],
)
def test_a_link_is_compared_with_its_kind(pairs: dict[Any, float], words: str, tmp_path: Path) -> None:
    short = of_links._shortfalls(site(tmp_path, 8, 4, "cuda"), {"all_reduce": (50.0, 30.0)}, pairs)
    assert "; ".join(short) == words


def test_a_kernel_falls_short_by_each_of_its_figures() -> None:
    good = Measured("flash", (5, 75600, 128), 0.1, 400.0, 1e-3, 1e-5)
    assert shortfalls([good], "cuda") == slow_shapes([good], "cuda", 800e12) == []
    assert "off by" in shortfalls([Measured("flash", good.shape, 0.1, 400.0, float("inf"), None)], "cuda")[0]
    assert "log-sum-exp" in shortfalls([Measured("flash", good.shape, 0.1, 400.0, 1e-3, 0.5)], "cuda")[0]
    assert "100 TFLOP/s" in slow_shapes([Measured("flash", good.shape, 0.1, 100.0, 1e-3, None)], "cuda", 8e14)[0]
    assert shortfalls([], "cuda") == ["no kernel runs"]


def test_steps_fall_short_by_each_of_their_figures() -> None:
    model = large_model(torch.device("cpu"))
    done = [Step(False, 1.0), Step(False, 1.0), Step(True, 0.3)]
    flops = 1e9
    assert judge("cpu", model, done, flops, 0).state is State.HOLDS
    for changed, words in (
        (([Step(False, 1.0)] * 2, flops, 0), "no step was skipped"),
        (([Step(False, 1e4), Step(False, 1e4), Step(True, 1.0)], flops * 1e3, 0), "rate of matrix products"),
        (([*done[:2], Step(True, 0.95)], flops, 0), "a skipped step takes 0.95"),
        ((done, flops, 10**9), "GB are held"),
    ):
        finding = judge("cpu", model, *changed)
        assert finding.state is State.FALLS_SHORT and words in finding.reason, finding


def test_synchronisations_of_one_step_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch warns through `warnings`; here the agreement does, once a step, as long as torch would."""
    from parallel.agreement import Agreement

    mode, agree = ["default"], Agreement.agree

    def warned(self: Agreement, **given: Any) -> Any:
        if mode[0] == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return agree(self, **given)

    monkeypatch.setattr(Agreement, "agree", warned)
    assert count(site(tmp_path), lambda name: mode.__setitem__(0, name)) == 1
    assert mode == ["default"]


def test_the_rank_that_failed_comes_before_those_that_lost_it() -> None:
    lost = falls_short("", "rank 0: DistError: Connection closed by peer")
    cause = falls_short("", "rank 1: RuntimeError: illegal memory access")
    assert _worst([lost, cause], 1.0) == cause and _worst([lost, holds("1")], 1.0) == lost
    assert _worst([holds("1"), holds("")], 0.1) == holds("1")


def test_a_speed_is_not_judged_where_others_had_the_processors() -> None:
    slow, wrong = judged([], "0.01 GB/s", slow=["below 5"]), judged(["off by 3"], "3", slow=["below 5"])
    assert (slow.state, slow.reason) == (State.FALLS_SHORT, "below 5") and wrong.reason == "off by 3; below 5"
    assert _worst([holds("1"), slow], 0.9) == slow and _worst([slow, wrong], 0.1) == wrong
    quiet = _worst([slow], 0.4)
    assert quiet.state is State.NOT_HERE and quiet.figure == "0.01 GB/s"
    assert "40% of the time that it asked for" in quiet.reason and "below 5" in quiet.reason


def test_time_is_given_by_what_other_programs_leave() -> None:
    def patience(ran: float, queued: float) -> float:
        return Clocks(160.0, 7.0 + ran, queued).since(Clocks(60.0, 7.0, 0.0)).patience()

    assert patience(50, 0) == patience(80, 20) == patience(1, 3) == 1, "quiet; nearly so; it hangs"
    assert patience(25, 25) == 2 and patience(5, 95) == 4


def test_a_processor_that_two_processes_share_is_told(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(3)]
    try:
        time.sleep(0.5)
        before = Clocks.of([processes[0].pid])
        time.sleep(1.5)
        taken = Clocks.of([processes[0].pid]).since(before)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert 0.05 < taken.share < 0.6 and taken.patience() > 1.5, taken
    assert Clocks.of([processes[0].pid]).since(before).share == 1, "it has ended"


def test_a_report_that_cannot_be_written_leaves_a_complaint(tmp_path: Path) -> None:
    document = CheckDocument(
        lines=[], machine={}, versions={}, date="", command="lockstep check", ranks=1, nodes=1, seconds=1.0
    )
    assert _written(document, tmp_path / "r.json") == document
    assert json.loads((tmp_path / "r.json").read_text())["schema"] == 1
    (tmp_path / "file").write_text("")
    complaint = _written(document, tmp_path / "file" / "r.json").complaint
    assert complaint.startswith("--report is ") and complaint.endswith("choose another.")
    assert "complaint" not in (tmp_path / "r.json").read_text()


def test_every_line_has_a_limit() -> None:
    lines = lines_for(2, small_config())
    assert all(0 < line.seconds("cpu") <= 180 and 0 < line.seconds("cuda") <= 240 for line in lines)
