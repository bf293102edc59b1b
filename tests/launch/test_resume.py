"""Runs that are killed and resumed from the command line: nothing is lost, and nothing is made twice."""

import fcntl
import json
import shutil
import subprocess
import sys
import time

import pytest

from tests.support.shell import Refused, Shell, actions, finish, hashes, report_of

pytestmark = pytest.mark.timeout(300)
EVERY_TWO = "--set=checkpoint.every=2"


@pytest.mark.slow
def test_killed_and_resumed_and_killed_again(shell: Shell) -> None:
    """Bit for bit what it would have been: first steps are missing, and then the video alone."""
    finish(shell.generate("--prompt=x", "--ranks=2", "--output=whole.mp4"))
    assert not (shell.folder / "whole.checkpoint").exists(), "checkpoints are written for those who ask"
    (shell.folder / "new").mkdir()
    (shell.folder / "new" / "o.mp4").write_text("the old video")
    options = ("--prompt=x", "--ranks=2", "--output=new/o.mp4", EVERY_TWO)
    killed = shell.generate(*options, fault="1 3 kill")
    assert_killed(killed, shell, "rank 1 failed in denoise step 4: the process was ended by SIGKILL")

    _, err = finish(shell.generate(*options), expected=2)
    assert "lockstep resume new/o.checkpoint" in err, "a run that was broken off is not overwritten"

    killed = shell.lockstep("resume", "new/o.checkpoint", "--ranks=2", fault="0 decode kill")  # the first rank writes
    err = assert_killed(killed, shell, "rank 0 failed in decode: the process was ended by SIGKILL")
    # rank 1 died right after it began to write its part of the fourth step's checkpoint in the background
    (first,) = (steps for steps in (2, 4) if f"going on after {steps} of 8 denoise steps" in err)
    assert "denoising" in err

    _, err = finish(shell.lockstep("resume", "new/o.checkpoint", "--ranks=2"))
    assert "going on after 8 of 8 denoise steps" in err and "denoising" not in err
    assert hashes(shell.folder / "new" / "o.mp4") == hashes(shell.folder / "whole.mp4")
    resumed, whole = report_of(shell.folder / "new" / "o.mp4"), report_of(shell.folder / "whole.mp4")
    assert actions(resumed) == actions(whole)
    assert resumed["resumed_at"] == [first, 8] and whole["resumed_at"] == []
    assert not (shell.folder / "new" / "o.checkpoint").exists()


def assert_killed(process: subprocess.Popen[str], shell: Shell, line: str) -> str:
    """All ranks end at once, and leave the checkpoint and the old video. Returns what was said."""
    _, err = finish(process, expected=1)
    newest = max(file.stat().st_mtime for file in (shell.folder / "new" / "o.checkpoint").rglob("step-*"))
    assert time.time() - newest < 10, "no waiting for a collective's time to be up"
    shell.await_nobody(seconds=1)
    failure, hint = err.splitlines()[-2:]
    assert failure == f"lockstep: {line}"
    assert hint.startswith("go on with: lockstep resume ") and hint.endswith("new/o.checkpoint")
    assert (shell.folder / "new" / "o.mp4").read_text() == "the old video"
    shown = sorted(file.name for file in (shell.folder / "new").iterdir() if not file.name.startswith("."))
    assert shown == ["o.checkpoint", "o.mp4"]
    return err


def test_a_list_goes_on_with_what_is_missing(shell: Shell) -> None:
    """Killed in the second of three videos, and resumed by torchrun on another number of ranks."""
    (shell.folder / "prompts.txt").write_text("one\ntwo\nthree\n")
    options = ("--prompts=prompts.txt", "--output=o.mp4", EVERY_TWO)
    killed = shell.start(  # in the step after the first video's files are there
        [sys.executable, "-m", "launch", "generate", *shell.options(*options), "--set=sampling.steps=30"]
    )
    while not (shell.folder / "o.checkpoint" / "video-1" / "step-00004").exists():
        assert killed.poll() is None, killed.communicate()
    with (shell.folder / "o.checkpoint" / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    killed.kill()
    killed.communicate()
    (shell.folder / "prompts.txt").unlink()  # the folder knows all
    first = (shell.folder / "o-0.mp4").stat()

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    out, err = finish(shell.start([*torchrun, "-m", "launch", "resume", "o.checkpoint", "--set=parallel.ulysses=2"]))
    assert "1 of 3 videos were made before" in err
    assert (shell.folder / "o-0.mp4").stat().st_mtime_ns == first.st_mtime_ns, "made once"
    reports = [report_of(shell.folder / f"o-{i}.mp4") for i in range(3)]
    assert [report["request"]["prompt"] for report in reports] == ["one", "two", "three"]
    assert [report["world_size"] for report in reports] == [1, 2, 2]
    assert reports[0]["resumed_at"] == reports[2]["resumed_at"] == [] and reports[1]["resumed_at"][0] >= 2
    assert all(f"o-{i}.mp4" in out for i in range(3))
    assert not (shell.folder / "o.checkpoint").exists()


def test_what_cannot_be_resumed(shell: Shell, refused: Refused) -> None:
    model = shutil.copytree(shell.model, shell.folder / "model")
    sets = ("--output=o.mp4", EVERY_TWO, f"--set=model.path={model}")
    finish(shell.generate("--prompt=x", *sets, fault="0 5 kill"), expected=-9)

    def not_resumed(*arguments: str) -> str:
        return refused(["resume", *arguments])

    assert "elsewhere.checkpoint holds no job" in not_resumed("elsewhere.checkpoint")
    changed = not_resumed("o.checkpoint", "--set=sampling.steps=9")
    assert "--set sampling.steps=9 might make another video" in changed and "sampling.seed" not in changed
    with (shell.folder / "o.checkpoint" / "lock").open() as lock:  # as a run that is at work has it
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "A run that still lives is writing to" in not_resumed("o.checkpoint")
        assert "A run that still lives" in refused(["generate", *shell.options("--prompt=x", *sets)])
    shutil.copytree(shell.folder / "o.checkpoint", shell.folder / "moved.checkpoint")
    assert "put it back" in not_resumed("moved.checkpoint"), "else it would start anew at o.checkpoint"
    (shell.folder / "link").symlink_to("o.checkpoint")
    config = json.loads((model / "vae" / "config.json").read_text())
    (model / "vae" / "config.json").write_text(json.dumps(config | {"_name_or_path": "another"}))
    assert "model.files was" in not_resumed("o.checkpoint")
    assert "model.files was" in not_resumed("link"), "the same folder by another name"


def test_a_full_disk_costs_the_checkpoint_and_not_the_video(shell: Shell) -> None:
    """Where there is no room even in the end, and nowhere else."""
    soon = "--set=runtime.wait_for_room_seconds=0.5"
    _, err = finish(
        shell.generate("--prompt=x", "--output=o.mp4", EVERY_TWO, soon, fault="0 checkpoint full-disk", HOME="/proc")
    )
    assert "no room in" in err and "waiting, free" in err
    assert "could not be written, and the run goes on" in err
    assert report_of(shell.folder / "o.mp4")["totals"]["checkpoints"]["count"] == 0
