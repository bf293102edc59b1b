"""A command that torchrun or a scheduler runs again: it goes on from its checkpoint, and makes nothing twice."""

import json
import sys
from pathlib import Path

import pytest

from engine.checkpoints import shard_file
from engine.checkpoints.match import job_fingerprint, must_match
from engine.checkpoints.names import DONE, step_folder
from engine.config import Config
from engine.errors import InvalidInput
from engine.request import Outputs, Task, make_tasks
from launch.jobs.continuation import Continuation, plan_continuation
from launch.jobs.folder import JobFolder
from launch.jobs.resuming import Resume, choose_resume, known_restart
from tests.support.shell import Refused, Shell, finish, hashes, report_of
from tests.support.small_model import tiny_config

pytestmark = pytest.mark.timeout(300)
EVERY_TWO = "--set=checkpoint.every=2"
SLURM = {"SLURM_RESTART_COUNT": "1", "SLURM_JOB_ID": "7"}
VARIABLES = ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "SLURM_RESTART_COUNT", "RESTARTED", "LSB_RESTART")


@pytest.mark.parametrize(
    ("environment", "restart"),
    [
        ({}, None),
        (SLURM, "SLURM_RESTART_COUNT is 1"),
        (SLURM | {"SLURM_RESTART_COUNT": "0"}, None),
        ({"SLURM_RESTART_COUNT": "1"}, None),  # left over in a shell
        ({"SLURM_RESTART_COUNT": "one", "SLURM_JOB_ID": "7"}, None),
        ({"TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_RUN_ID": "x"}, "TORCHELASTIC_RESTART_COUNT is 2"),
        ({"TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_RUN_ID": "x"}, None),
        ({"LSB_RESTART": "Y"}, "LSB_RESTART is Y"),
        ({"RESTARTED": "1"}, None),  # anybody's
        ({"RESTARTED": "1", "SGE_TASK_ID": "undefined"}, "RESTARTED is 1"),
        ({"AWS_BATCH_JOB_ATTEMPT": "1"}, None),
        ({"AWS_BATCH_JOB_ATTEMPT": "2"}, "AWS_BATCH_JOB_ATTEMPT is 2"),
        ({"BATCH_TASK_RETRY_ATTEMPT": "1"}, "BATCH_TASK_RETRY_ATTEMPT is 1"),
    ],
)
def test_where_a_restart_is_known(environment: dict[str, str], restart: str | None) -> None:
    assert known_restart(environment) == restart
    assert choose_resume(None, environment) is (Resume.AUTO if restart else Resume.REFUSE)
    assert choose_resume(Resume.NEVER, environment) is Resume.NEVER, "who asks is obeyed"


class Scene:
    """Two videos of a list, of which earlier runs have left this or that; no model is loaded for it."""

    def __init__(self, folder: Path) -> None:
        self.config = tiny_config("checkpoint.every=2")
        self.folder = JobFolder(folder / "o.checkpoint")
        self.outputs = Outputs(folder / "o.mp4", folder / "o.json", checkpoint=self.folder.path)

    def tasks(self, *seeds: int) -> list[Task]:
        return make_tasks(["x"], "", seeds, self.config.sampling, self.outputs)

    def broken_off(self, task: Task, steps: int = 2) -> None:
        """A run of the task was broken off after that many steps."""
        assert task.outputs.checkpoint
        plain = {"must_match": must_match(self.config, task.request) | {"device kind": "cpu"}}
        shard_file.write(step_folder(task.outputs.checkpoint, steps), 0, 1, {}, plain)
        (self.folder.path / "job.json").write_text("{}")

    def finished(self, task: Task, in_folder: bool) -> None:
        outputs = task.outputs
        assert outputs.video and outputs.report and outputs.checkpoint
        outputs.video.write_text("a video")
        report = {
            "fingerprint": job_fingerprint(self.config, task.request),
            "request": {"seed": task.request.seed, "prompt": task.request.prompts[0]},
            "output": {"videos": [{"bytes": len("a video")}]},
        }
        outputs.checkpoint.mkdir(parents=True, exist_ok=True)
        (self.folder.path / "job.json").write_text("{}")
        (outputs.checkpoint / DONE if in_folder else outputs.report).write_text(json.dumps(report))

    def plan(self, resume: Resume, tasks: list[Task], config: Config | None = None) -> Continuation:
        return plan_continuation(resume, self.folder, None, config or self.config, tasks, acts_for_all=True)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return Scene(tmp_path)


def test_nothing_is_there(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = scene.tasks(0)
    for resume in (Resume.AUTO, Resume.NEVER, Resume.REFUSE):
        assert scene.plan(resume, tasks) == Continuation()
    with pytest.raises(InvalidInput, match="--resume is only, but there is nothing to go on from, for there is no"):
        scene.plan(Resume.ONLY, tasks)
    without = tiny_config()
    with pytest.raises(InvalidInput, match=r"for checkpoint\.every is 0"):
        scene.plan(Resume.ONLY, tasks, without)
    assert "checkpoint.every is 0" in scene.plan(Resume.AUTO, tasks, without).notes[0]
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    (note,) = scene.plan(Resume.AUTO, tasks, without).notes
    assert note == "SLURM_RESTART_COUNT is 1, so the run would go on, but checkpoint.every is 0: it begins anew"


def test_a_checkpoint_of_this_job(scene: Scene) -> None:
    tasks = scene.tasks(0)
    scene.broken_off(tasks[0])
    for resume in (Resume.AUTO, Resume.ONLY):
        plan = scene.plan(resume, tasks)
        assert not plan.sets_aside and plan.notes == (f"the run goes on from {scene.folder.path}",)
    assert scene.plan(Resume.NEVER, tasks).sets_aside
    with pytest.raises(InvalidInput, match="lockstep resume"):
        scene.plan(Resume.REFUSE, tasks)


def test_a_checkpoint_of_another_job_is_kept_and_not_continued(scene: Scene) -> None:
    scene.broken_off(scene.tasks(0)[0])
    other = scene.tasks(1)
    plan = scene.plan(Resume.AUTO, other)
    assert plan.sets_aside and "request.seed was 0 and is 1" in plan.notes[0] and "o.earlier-1" in plan.notes[0]
    with pytest.raises(InvalidInput, match=r"holds another job, for request\.seed was 0 and is 1"):
        scene.plan(Resume.ONLY, other)
    scene.folder.set_aside()
    assert scene.plan(Resume.AUTO, other) == Continuation()
    scene.broken_off(other[0])
    scene.folder.set_aside()
    assert {path.name for path in scene.folder.path.parent.iterdir()} == {
        "o.earlier-1.checkpoint",
        "o.earlier-2.checkpoint",
    }


@pytest.mark.parametrize("in_folder", [True, False])
def test_what_is_finished_is_not_made_again(scene: Scene, in_folder: bool) -> None:
    tasks = scene.tasks(0, 1)
    scene.finished(tasks[0], in_folder)
    scene.broken_off(tasks[1])
    plan = scene.plan(Resume.AUTO, tasks)
    assert list(plan.finished) == [0] and not plan.sets_aside
    assert plan.notes[0] == "1 of 2 videos were made before"
    scene.finished(tasks[1], in_folder)
    assert list(scene.plan(Resume.ONLY, tasks).finished) == [0, 1]
    assert tasks[0].outputs.video
    tasks[0].outputs.video.write_text("the video of somebody else")
    assert list(scene.plan(Resume.AUTO, tasks).finished) == [1]


def test_a_finished_video_of_another_seed_is_another_job(scene: Scene) -> None:
    scene.finished(scene.tasks(0, 1)[0], in_folder=True)
    plan = scene.plan(Resume.AUTO, scene.tasks(2, 3))
    assert plan.finished == {} and plan.sets_aside
    assert "it has finished the video of seed 0 and prompt 'x'" in plan.notes[0]


def test_a_damaged_report_or_checkpoint_is_nothing_to_go_on_from(scene: Scene) -> None:
    tasks = scene.tasks(0)
    scene.broken_off(tasks[0])
    (file,) = scene.folder.path.rglob("rank-*")
    file.write_bytes(b"\xff" * 40)
    for content in ("", "[]", '{"fingerprint": 3}', "\udcff"):
        assert tasks[0].outputs.report
        tasks[0].outputs.report.write_text(content, errors="surrogateescape")
        assert scene.plan(Resume.AUTO, tasks) == Continuation()


def test_the_option_is_checked(refused: Refused, shell: Shell) -> None:
    assert "'sometimes' is not one of auto, never, only" in refused(
        ["generate", *shell.options("--prompt=x", "--resume=sometimes")]
    )


def test_only_is_refused_before_anything_is_loaded(refused: Refused, shell: Shell) -> None:
    options = shell.options("--prompt=x", "--output=o.mp4", EVERY_TWO, "--resume=only")
    assert "there is nothing to go on from" in refused(["generate", *options])


@pytest.mark.slow
def test_a_rank_that_is_killed_under_torchrun_costs_no_video(shell: Shell) -> None:
    """Bit for bit what an undisturbed run makes; and once it is made, the same command makes it no more."""
    finish(shell.torchrun(2, "--prompt=x", "--output=whole.mp4"))
    (shell.folder / "plan").write_text(json.dumps([[1, "5", "kill", 0]]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    command += ["-m", "launch", "generate", *shell.options("--prompt=x", "--output=o.mp4", EVERY_TWO)]
    _, err = finish(shell.start(command, fault=f"plan {shell.folder / 'plan'}"))
    assert "TORCHELASTIC_RESTART_COUNT is 1, so the run goes on from o.checkpoint" in err
    assert hashes(shell.folder / "o.mp4") == hashes(shell.folder / "whole.mp4")
    assert report_of(shell.folder / "o.mp4")["resumed_at"][0] >= 2
    assert not (shell.folder / "o.checkpoint").exists()

    made = (shell.folder / "o.mp4").stat().st_mtime_ns
    for command in (shell.torchrun, lambda ranks, *options, **environment: shell.generate(*options, **environment)):
        out, err = finish(command(2, "--prompt=x", "--output=o.mp4", EVERY_TWO, **SLURM))
        assert "there is nothing left to do" in err and "o.mp4" in out
        assert "loading" not in err
    assert (shell.folder / "o.mp4").stat().st_mtime_ns == made
