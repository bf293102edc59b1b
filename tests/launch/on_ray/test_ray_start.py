"""Clusters as people start them, with `ray start --head`: with a token and without, and what follows when they die."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launch.gang.own_ray import end_processes, make_folder
from tests.support.shell import Shell

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]
WITHOUT = ("env", "-u", "RAY_AUTH_MODE", "-u", "RAY_AUTH_TOKEN", "-u", "RAY_AUTH_TOKEN_PATH", "-u", "RAY_ADDRESS")
LONG = ("--ranks=2", "--output=o.mp4", "--set=sampling.steps=1000", "--set=checkpoint.every=2")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


class Started:
    """A cluster of one node."""

    def __init__(self, home: Path, token: str) -> None:
        self.home = home
        if token:
            (home / ".ray").mkdir(parents=True)
            (home / ".ray" / "auth_token").write_text(token + "\n")
        self.folder = make_folder()
        self.address = f"127.0.0.1:{free_port()}"
        ray = [*WITHOUT, f"HOME={home}", "RAY_USAGE_STATS_ENABLED=0", str(Path(sys.executable).with_name("ray"))]
        ports = [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "ray-client-server-port")]
        options = ["--num-cpus=2", "--include-dashboard=false", "--object-store-memory=80000000"]
        options += [f"--port={self.address.rpartition(':')[2]}", f"--temp-dir={self.folder / 'r'}"]
        subprocess.run([*ray, "start", "--head", *options, *ports], check=True, capture_output=True, timeout=100)

    def generate(self, shell: Shell, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        command = [*WITHOUT, sys.executable, "-m", "launch", "generate", *shell.options("--prompt=x", *arguments)]
        ray = ("--launcher=ray", f"--ray-address={self.address}")
        return shell.start([*command, *ray], **{"HOME": str(self.home), **environment})

    def kill(self, name: str) -> None:
        for process in psutil.process_iter(["name", "cmdline"]):
            if process.info["name"] == name and any(str(self.folder) in part for part in process.info["cmdline"] or ()):
                process.kill()
                return
        raise AssertionError(f"there is no {name}")

    def end(self) -> None:
        end_processes(self.folder)


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Started]:
    started = Started(tmp_path / "home", request.param)
    try:
        yield started
    finally:
        started.end()


@pytest.mark.parametrize("cluster", ["a" * 64, ""], indirect=True, ids=["token", "no-token"])
def test_a_run_on_the_cluster_of_ray_start(cluster: Started, stub_shell: Shell) -> None:
    process = cluster.generate(stub_shell, "--ranks=2", "--output=o.mp4")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "o.mp4" in out and "ray" not in err.lower(), "nothing of what Ray prints"
    if (cluster.home / ".ray").exists():
        other = cluster.generate(stub_shell, "--output=p.mp4", HOME=str(cluster.home / "none"))
        _, err = other.communicate(timeout=200)
        assert other.returncode == 2 and "wants a token, and there is none here" in err
    stub_shell.await_nobody(seconds=30)


@pytest.mark.parametrize("cluster", ["a" * 64], indirect=True, ids=["token"])
@pytest.mark.parametrize(
    ("name", "words"), [("gcs_server", "head of the Ray cluster"), ("raylet", "node on this machine")]
)
def test_a_cluster_that_dies_ends_the_run(name: str, words: str, cluster: Started, stub_shell: Shell) -> None:
    process = cluster.generate(stub_shell, *LONG, "--set=ray.head_timeout_seconds=3")
    stub_shell.await_line(process, "denoising")
    time.sleep(2)
    cluster.kill(name)
    begun = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 30
    lines = [line for line in err.splitlines() if line.startswith(("lockstep: ", "go on with"))]
    assert process.returncode == 1 and out == "" and len(lines) == 2, err
    assert words in lines[0] and (log := re.search(r"What Ray wrote is in (\S+)\.$", lines[0])), lines
    assert Path(log[1]).is_dir()
    assert (
        lines[1] == f"go on with: lockstep resume o.checkpoint --launcher=ray --ranks=2 --ray-address={cluster.address}"
    )
    stub_shell.await_nobody(seconds=30)


@pytest.mark.parametrize("cluster", [""], indirect=True, ids=["no-token"])
def test_success_counts_though_the_clean_up_hangs(cluster: Started, stub_shell: Shell) -> None:
    """Head and node are frozen as soon as the summary is printed."""
    process = cluster.generate(stub_shell, "--ranks=2", "--output=o.mp4")
    assert process.stdout is not None
    first = process.stdout.readline()
    frozen = [each for each in psutil.process_iter(["name"]) if each.info["name"] in ("gcs_server", "raylet")]
    ours = [each for each in frozen if any(str(cluster.folder) in part for part in each.cmdline())]
    assert "o.mp4" in first and len(ours) == 2
    for each in ours:
        os.kill(each.pid, signal.SIGSTOP)
    begun = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 0 and time.monotonic() - begun < 25
