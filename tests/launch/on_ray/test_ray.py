"""Ranks in Ray actors, on a cluster of two nodes of one machine: how runs end, with the stub engine, well or badly."""

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.ray_nodes import PLAIN, assert_nothing_left, on_ray
from tests.support.shell import Shell, finish, untimed

pytestmark = pytest.mark.timeout(300)


def test_a_killed_rank_ends_all_where_no_checkpoints_are(cluster: Any, stub_shell: Shell) -> None:
    shell = stub_shell
    process = on_ray(shell, cluster, "--ranks=2", "--output=o.mp4", "--set=sampling.steps=1000")
    shell.await_line(process, "denoising")
    time.sleep(2)  # the driver asks both ranks several times where they are
    os.kill(next(pid for pid in shell.family() if pid != process.pid), signal.SIGKILL)
    killed = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 10
    assert process.returncode == 1 and out == ""
    *progress, last = err.splitlines()
    assert all(" denoising: step " in line for line in progress), err
    assert re.fullmatch(r"lockstep: rank [01] failed in denoise step \d+: the process on node .* died", last), err
    assert_nothing_left(cluster, shell)
    assert not (shell.folder / "o.mp4").exists()


@pytest.mark.parametrize("signum", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_ended_driver_leaves_nothing(signum: int, cluster: Any, stub_shell: Shell) -> None:
    shell = stub_shell
    process = on_ray(shell, cluster, "--ranks=2", "--output=o.mp4", "--set=sampling.steps=1000")
    shell.await_line(process, "denoising")
    assert len(shell.family()) >= 3
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    if signum != signal.SIGKILL:
        *progress, last = err.splitlines()
        assert (process.returncode, out, last) == (143, "", "lockstep: ended by SIGTERM")
        assert all(" denoising: step " in line for line in progress), err
    assert_nothing_left(cluster, shell)


def test_no_room_in_the_cluster(cluster: Any, stub_shell: Shell) -> None:
    shell = stub_shell
    timeout = "--set=ray.start_timeout_seconds=1"
    out, err = finish(on_ray(shell, cluster, "--ranks=4", "--output=o.mp4", timeout), expected=2)
    assert out == "" and len(untimed(err)) == 1
    assert "no room for 4 ranks with 1 CPU each within 1 s" in err
    assert "2 nodes have 2 CPU of which 2 are free" in err
    assert_nothing_left(cluster, shell)


@pytest.mark.slow
def test_a_rank_that_raises_on_a_ray_of_its_own(stub_shell: Shell) -> None:
    """Without an address: a Ray is started for the run, and ends with it."""
    shell = stub_shell
    options = ("--ranks=2", "--output=o.mp4", "--launcher=ray", "--set=checkpoint.every=2")
    process = shell.generate("--prompt=x", *options, fault="1 3 raise", **PLAIN)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1 and out == "" and "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("lockstep: ")]
    assert lines == ["lockstep: rank 1 failed in denoise step 4: RuntimeError: injected over two lines"]
    assert "starting all ranks again" not in err, "it would raise again"
    assert "go on with: lockstep resume o.checkpoint" in err
    shell.await_nobody(seconds=10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--launcher=ray", "--set=sampling.frames=4"], ["sampling.frames", "4n+1"]),
        (["--launcher=ray", "--ray-address=ray://here:10001"], ["ray://here:10001", "HOST:PORT"]),
        (["--ray-address=here:6379"], ["here:6379", "--launcher ray"]),
        (["--launcher=slurm"], ["--launcher", "slurm"]),
    ],
)
def test_refused_input_starts_no_ray(arguments: list[str], words: list[str], shell: Shell) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "launch", "generate"]
    process = shell.start([*command, *shell.options("--prompt=x", *arguments)], **PLAIN)
    out, err = process.communicate(timeout=60)
    lines = [line for line in untimed(err) if not line.startswith("import time:")]
    assert process.returncode == 2 and out == "" and len(lines) == 1
    assert all(word in lines[0] for word in words), lines
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in err.splitlines() if "|" in line}
    assert "pydantic" in imported and "ray" not in imported
    assert not Path(shell.folder, "outputs").exists()
