"""Ranks in Ray actors, on a cluster of two nodes of one machine: the same video, whatever happens on the way."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launch.conftest import Shell
from tests.launch.test_resume import hashes
from tests.launch.test_runs import actions, finish, report_of

pytestmark = pytest.mark.timeout(300)
# nodes of a test need no token; without this they would want the one that a person may have in the home folder
PLAIN = {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "", "RAY_USAGE_STATS_ENABLED": "0"}
NODE: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one CPU each, so that two ranks are on different ones."""
    from ray.cluster_utils import Cluster

    before = {name: os.environ.get(name) for name in PLAIN}
    os.environ.update(PLAIN)
    cluster = Cluster()
    try:
        cluster.add_node(**NODE)
        cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def on_ray(shell: Shell, cluster: Any, *arguments: str, fault: str = "") -> subprocess.Popen[str]:
    address = f"--ray-address={cluster.address}"
    return shell.generate("--prompt=x", "--launcher=ray", address, *arguments, fault=fault, **PLAIN)


def assert_nothing_left(cluster: Any, shell: Shell, seconds: float = 15) -> None:
    """No process of a rank, no actor and no placement group."""
    shell.await_nobody(seconds)
    deadline = time.monotonic() + seconds
    while left := [
        table["state"] if "state" in table else table["State"]
        for table in (
            *cluster.global_state.placement_group_table().values(),
            *cluster.global_state.actor_table(None).values(),
        )
        if (table["state"] if "state" in table else table["State"]) not in ("REMOVED", "DEAD")
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_the_video_is_that_of_local_ranks_whatever_happens_to_a_rank(cluster: Any, shell: Shell) -> None:
    """In the gang that is disturbed, rank 1 is killed, then frozen, then hangs; each costs it a restart."""
    finish(shell.generate("--prompt=x", "--ranks=2", "--set=parallel.ring=2", "--output=local.mp4"))
    settings = ["checkpoint.every=2", "ray.silence_timeout_seconds=8", "runtime.step_timeout_seconds=5"]
    options = ("--ranks=2", "--output=disturbed.mp4", *(f"--set={setting}" for setting in settings))
    out, err = finish(on_ray(shell, cluster, *options, fault="1 4 in-turn"))
    lost = [line for line in err.splitlines() if "starting all ranks again" in line]
    place = r"node [\d.]+ \([0-9a-f]{8}\)"
    for line, reason in zip(
        lost,
        [
            rf"the process on {place} died",
            rf"the process on {place} has not answered for \d+ s",
            rf"it answers from {place}, but has not got on for 5 s",
        ],
        strict=True,
    ):
        assert re.match(rf"rank 1 failed in (load|encode|denoise step \d): {reason}: starting all ranks again", line), (
            line
        )
    assert err.splitlines()[0] == "joining ranks" and "disturbed.mp4" in out and "computed" in out
    assert hashes(shell.folder / "disturbed.mp4") == hashes(shell.folder / "local.mp4")
    report = report_of(shell.folder / "disturbed.mp4")
    assert actions(report) == actions(report_of(shell.folder / "local.mp4"))
    assert report["layout"]["ring"] == 2, "Ulysses groups stay inside nodes, which have one rank each"
    assert report["resumed_at"][-1] == 4
    assert not (shell.folder / "disturbed.checkpoint").exists()
    assert_nothing_left(cluster, shell)


def test_a_killed_rank_ends_all_where_no_checkpoints_are(cluster: Any, shell: Shell) -> None:
    process = on_ray(shell, cluster, "--ranks=2", "--output=o.mp4", "--set=sampling.steps=1000")
    shell.await_line(process, "denoising")
    os.kill(next(pid for pid in shell.family() if pid != process.pid), signal.SIGKILL)
    killed = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 10
    assert process.returncode == 1 and out == ""
    assert re.fullmatch(r"lockstep: rank [01] failed in denoise step \d+: the process on node .* died\n", err), err
    assert_nothing_left(cluster, shell)
    assert not (shell.folder / "o.mp4").exists()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_an_ended_driver_leaves_nothing(signum: int, cluster: Any, shell: Shell) -> None:
    process = on_ray(shell, cluster, "--ranks=2", "--output=o.mp4", "--set=sampling.steps=1000")
    shell.await_line(process, "denoising")
    assert len(shell.family()) >= 3
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    if signum != signal.SIGKILL:
        assert (process.returncode, out, err) == (143, "", "lockstep: ended by SIGTERM\n")
    assert_nothing_left(cluster, shell)


def test_no_room_in_the_cluster(cluster: Any, shell: Shell) -> None:
    timeout = "--set=ray.start_timeout_seconds=1"
    out, err = finish(on_ray(shell, cluster, "--ranks=4", "--output=o.mp4", timeout), expected=2)
    assert out == "" and len(err.splitlines()) == 1
    assert "no room for 4 ranks with 1 CPU each within 1 s" in err
    assert "2 nodes have 2 CPU of which 2 are free" in err
    assert_nothing_left(cluster, shell)


def test_a_rank_that_raises_on_a_ray_of_its_own(shell: Shell) -> None:
    """Without an address: a Ray is started for the run, and ends with it."""
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
    command = [sys.executable, "-X", "importtime", "-m", "launch.cli", "generate"]
    process = shell.start([*command, *shell.options("--prompt=x", *arguments)], **PLAIN)
    out, err = process.communicate(timeout=60)
    lines = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert process.returncode == 2 and out == "" and len(lines) == 1
    assert all(word in lines[0] for word in words), lines
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in err.splitlines() if "|" in line}
    assert "ray" not in imported or "ray://" in arguments[-1]
    assert not Path(shell.folder, "outputs").exists()
