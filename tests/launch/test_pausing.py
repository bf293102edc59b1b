"""SIGTERM pauses a run that keeps checkpoints, so that a scheduler can repeat it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.shell import Shell, finish, hashes, untimed
from tests.support.small_model import ROOT

pytestmark = pytest.mark.timeout(300)
LONG = ("--set=sampling.steps=300", "--set=checkpoint.every=1000")
SLURM = {"SLURM_RESTART_COUNT": "1", "SLURM_JOB_ID": "7"}


def run(code: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    lines = f"""
import os, signal, sys, time
from launch.process.pausing import PauseRequest, is_meant
from launch.process.signals import Interrupted, become_rank, raise_when_interrupted
def term(): os.kill(os.getpid(), signal.SIGTERM)
{code}
"""
    return subprocess.run(
        [sys.executable, "-c", lines],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_the_first_signal_asks_and_the_second_ends() -> None:
    done = run(
        """
raise_when_interrupted()
with PauseRequest(20, lambda: print("passed on")) as request:
    term(); term_seen = request.control()
    print(term_seen.name)
    try: term(); time.sleep(1)
    except Interrupted as interrupted: print(interrupted)
try: term(); time.sleep(1)
except Interrupted: print("raised twice")
else: print("as before the block")
"""
    )
    assert done.stdout.splitlines() == ["passed on", "PAUSE", "ended by SIGTERM", "as before the block"], done.stderr


def test_a_pause_that_takes_too_long_is_ended() -> None:
    done = run("raise_when_interrupted()\nwith PauseRequest(0.2):\n term(); time.sleep(20)")
    assert (done.returncode, done.stderr) == (143, "lockstep: ended by SIGTERM\n")
    done = run("become_rank()\nwith PauseRequest(0.2):\n term(); time.sleep(20)")
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, ""), "its launcher speaks"


def test_without_grace_nothing_changes() -> None:
    done = run("become_rank()\nwith PauseRequest(0):\n term(); time.sleep(20)")
    assert done.returncode == -signal.SIGTERM


@pytest.mark.parametrize("meant", [True, False])
def test_a_rank_pauses_if_its_launcher_means_it(meant: bool, tmp_path: Path) -> None:
    """Elastic sends SIGTERM too where another rank has failed; then the rank has to die at once."""
    if meant:
        (tmp_path / "pause").touch()
    code = (
        "with PauseRequest(20, confirmed=is_meant) as request:\n term(); time.sleep(1.3); print(request.control().name)"
    )
    error_file = tmp_path / "run" / "attempt_0" / "1" / "error.json"
    done = run(f"become_rank()\n{code}", LOCKSTEP_PARENT_PID=str(os.getpid()), TORCHELASTIC_ERROR_FILE=str(error_file))
    assert (done.returncode, done.stdout) == ((0, "PAUSE\n") if meant else (-signal.SIGTERM, ""))


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_paused_run_says_how_to_go_on(ranks: int, stub_shell: Shell) -> None:
    """All processes of the job get SIGTERM, as Slurm sends it."""
    shell = stub_shell
    process = shell.generate("--prompt=x", f"--ranks={ranks}", "--output=o.mp4", *LONG, "--set=checkpoint.every=1")
    shell.await_line(process, "denoising: step 30")  # before the first step there is nothing to go on from
    for pid in shell.family():
        os.kill(pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    first, hint = untimed(err)
    assert (process.returncode, out) == (75, "")
    assert first.startswith("lockstep: Paused at denoise step ") and hint.startswith("go on with: lockstep resume ")
    shell.await_nobody(seconds=3)


@pytest.mark.slow
def test_a_run_that_was_paused_and_repeated_makes_the_same_video(shell: Shell) -> None:
    options = ("--prompt=x", "--ranks=2", *LONG)
    finish(shell.generate(*options, "--output=whole.mp4"))
    paused = shell.generate(*options, "--output=o.mp4")
    shell.await_line(paused, "denoising: step 30")  # before the first step there is nothing to go on from
    paused.send_signal(signal.SIGTERM)
    finish(paused, expected=75)
    _, err = finish(shell.generate(*options, "--output=o.mp4", **SLURM))
    assert "SLURM_RESTART_COUNT is 1, so the run goes on from o.checkpoint" in err and "going on after" in err
    assert hashes(shell.folder / "o.mp4") == hashes(shell.folder / "whole.mp4")


@pytest.mark.slow
def test_torchrun_that_is_ended_leaves_a_checkpoint(shell: Shell) -> None:
    options = ("--prompt=x", "--output=o.mp4", *LONG)
    process = shell.torchrun(2, *options)
    shell.await_line(process, "denoising: step 30")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "lockstep: Paused at denoise step " in err
    _, err = finish(shell.generate(*options, "--ranks=1", "--resume=auto"))
    assert "going on after" in err, "on another number of ranks"
