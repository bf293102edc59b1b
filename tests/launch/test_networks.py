"""Ranks whose network stacks are separate, as those of two machines are: the video is that of local ranks."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

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


@pytest.mark.slow
def test_a_torchrun_agent_in_each(stacks: tuple[Stack, Stack], shell: Shell, local: Path) -> None:
    meeting = ["--nnodes=2", "--nproc-per-node=1", f"--master-addr={stacks[0].address}", "--master-port=29400"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *meeting]
    program = ["-m", "launch", "generate", *shell.options("--prompt=x", RING, "--output=o.mp4")]
    agents = [shell.start([*stack.prefix, *torchrun, f"--node-rank={i}", *program]) for i, stack in enumerate(stacks)]
    for agent in agents:
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


@pytest.mark.slow
def test_a_ray_node_in_each(stacks: tuple[Stack, Stack], shell: Shell, local: Path, ray_folder: Path) -> None:
    head, other = stacks
    address = f"{head.address}:6379"
    environment = PLAIN | {"RAY_TMPDIR": str(ray_folder)}
    small = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000", "--block"]
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *small]

    def start(stack: Stack, *arguments: str) -> None:
        command = [*stack.prefix, *ray, f"--node-ip-address={stack.address}", *arguments]
        with (shell.folder / "ray.log").open("a") as log:
            shell.start(command, stdout=log.fileno(), stderr=log.fileno(), **environment)

    start(head, "--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={ray_folder}")
    start(other, f"--address={address}")  # tries for a while, should the head not be there yet
    command = [*head.prefix, sys.executable, "-m", "launch", "generate"]
    options = shell.options("--prompt=x", "--launcher=ray", f"--ray-address={address}", "--ranks=2", RING)
    out, _ = finish(shell.start([*command, *options, "--output=o.mp4"], **environment))
    assert "o.mp4" in out
    assert hashes(shell.folder / "o.mp4") == hashes(local)
    assert report_of(shell.folder / "o.mp4")["layout"]["ring"] == 2
