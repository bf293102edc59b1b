"""Ranks whose network stacks are separate, as those of two machines are: the video is that of local ranks."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.networks import Stack, two_stacks
from tests.support.ray_nodes import PLAIN
from tests.support.shell import Shell, finish, hashes, report_of

pytestmark = pytest.mark.timeout(600)
RING = "--set=parallel.ring=2"


@pytest.fixture(scope="module")
def stacks() -> Iterator[tuple[Stack, Stack]]:
    with two_stacks() as stacks:
        yield stacks


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    shell = Shell(tmp_path_factory.mktemp("local"), tiny_checkpoint)
    finish(shell.generate("--prompt=x", "--ranks=2", RING, "--output=o.mp4"))
    return shell.folder / "o.mp4"


def torchrun_in_each(
    stacks: tuple[Stack, Stack], shell: Shell, command: str, *arguments: str, fault: str = ""
) -> list[subprocess.Popen[str]]:
    """An agent of torchrun on each, with one rank."""
    meeting = ["--nnodes=2", "--nproc-per-node=1", f"--master-addr={stacks[0].address}", "--master-port=29400"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *meeting]
    program = ["-m", "launch", command, *shell.options(*arguments)]
    agents = [[*stack.prefix, *torchrun, f"--node-rank={i}", *program] for i, stack in enumerate(stacks)]
    return [shell.start(agent, fault) for agent in agents]


@pytest.mark.slow
def test_a_torchrun_agent_in_each(stacks: tuple[Stack, Stack], shell: Shell, local: Path) -> None:
    for agent in torchrun_in_each(stacks, shell, "generate", "--prompt=x", RING, "--output=o.mp4"):
        finish(agent)
    assert hashes(shell.folder / "o.mp4") == hashes(local)
    assert report_of(shell.folder / "o.mp4")["layout"]["ring"] == 2
    shell.await_nobody(seconds=5)


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A short name: paths of Ray's sockets must have no more than 107 letters."""
    folder = Path(tempfile.mkdtemp(prefix="lk-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class RayInEach:
    """A Ray node on each, with one CPU."""

    def __init__(self, stacks: tuple[Stack, Stack], shell: Shell, folder: Path) -> None:
        self._head, other = stacks
        self._shell = shell
        self._address = f"{self._head.address}:6379"
        self._environment = PLAIN | {"RAY_TMPDIR": str(folder)}
        self._start(self._head, "--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={folder}")
        self._start(other, f"--address={self._address}")  # tries for a while, should the head not be there yet
        deadline = time.monotonic() + 120
        while (shell.folder / "ray.log").read_text().count("Ray runtime started") < 2:
            assert time.monotonic() < deadline, (shell.folder / "ray.log").read_text()
            time.sleep(0.1)

    def _start(self, stack: Stack, *arguments: str) -> None:
        small = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000", "--block"]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *small, f"--node-ip-address={stack.address}"]
        with (self._shell.folder / "ray.log").open("a") as log:
            streams = {"stdout": log.fileno(), "stderr": log.fileno()}
            self._shell.start([*stack.prefix, *ray, *arguments], **streams, **self._environment)

    def run(self, command: str, *arguments: str, fault: str = "") -> subprocess.Popen[str]:
        lockstep = [*self._head.prefix, sys.executable, "-m", "launch", command]
        ray = ("--launcher=ray", f"--ray-address={self._address}", "--ranks=2")
        return self._shell.start([*lockstep, *self._shell.options(*ray, *arguments)], fault, **self._environment)


@pytest.mark.slow
def test_a_ray_node_in_each(stacks: tuple[Stack, Stack], shell: Shell, local: Path, ray_folder: Path) -> None:
    ray = RayInEach(stacks, shell, ray_folder)
    out, _ = finish(ray.run("generate", "--prompt=x", RING, "--output=o.mp4"))
    assert "o.mp4" in out
    assert hashes(shell.folder / "o.mp4") == hashes(local)
    assert report_of(shell.folder / "o.mp4")["layout"]["ring"] == 2


def counts(folder: Path) -> dict[str, Any]:
    """What a bench has counted, that is all but seconds."""
    document = json.loads((folder / "bench.json").read_text())
    variants = {"given": document, "cache_off": document["cache_off"]}
    return {
        name: {
            **{key: each[key] for key in ("collective_bytes_by_kind", "steps_computed", "steps_skipped", "layout")},
            "latents": {(s["prompt"], s["seed"]): s["latents_sha256"] for s in each["samples"]},
            "actions": {(s["prompt"], s["seed"]): s["step_actions"] for s in each["samples"]},
            "cache_bytes": each["cache_bytes"],
            "videos": each["videos"],
        }
        for name, each in variants.items()
    }


@pytest.mark.slow
def test_a_bench_counts_the_same_and_names_the_late_rank(
    stacks: tuple[Stack, Stack], shell: Shell, ray_folder: Path
) -> None:
    """Under torchrun and on Ray, with a rank in each stack, as with both on one; the second rank is slowed."""
    given = ("--set=sampling.steps=16", "--set=cache.threshold=0.5", "--rounds=2", RING)
    finish(shell.lockstep("bench", *shell.options(*given, "--ranks=2", "--output=local")))
    expected = counts(shell.folder / "local")
    assert sum(expected["given"]["collective_bytes_by_kind"].values()) > 0
    assert expected["given"]["steps_skipped"] > 0 == expected["cache_off"]["steps_skipped"]

    slow = "1 step slow"  # each of its steps takes a tenth of a second more
    for agent in torchrun_in_each(stacks, shell, "bench", *given, "--output=torchrun", fault=slow):
        finish(agent)
    shell.await_nobody(seconds=5)
    finish(RayInEach(stacks, shell, ray_folder).run("bench", *given, "--output=ray", fault=slow))
    for each in ("torchrun", "ray"):
        assert counts(shell.folder / each) == expected, each
        document = json.loads((shell.folder / each / "bench.json").read_text())
        for measured in (document, document["cache_off"]):
            assert measured["skew"]["late_rank"] == 1, measured["skew"]
            assert measured["skew"]["seconds"]["median"] > 0.05, measured["skew"]
            first, second = measured["ranks"]
            assert second["late_seconds"]["median"] > 0.05 > first["late_seconds"]["median"]
