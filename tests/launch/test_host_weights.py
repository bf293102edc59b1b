"""One copy of weights a machine, in runs as a person starts them. The ranks of a machine find each other alike under
every launcher; tests/launch/on_ray has the run on Ray."""

from pathlib import Path

import pytest

from engine.cost.host import Copies
from tests.support.host_weights import memory_of_run, run_options, tells_of_sharing
from tests.support.offloading import write_two_experts
from tests.support.one_machine import holders, names_in_shm
from tests.support.shell import Shell, finish, hashes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ranks_of_every_launcher_share_weights(shell: Shell, tmp_path: Path) -> None:
    model = write_two_experts(tmp_path / "experts")
    options, made = ["--prompt=x", *run_options(model)], []
    runs: list[tuple[str, str, Copies]] = [("a", "local", "own"), ("b", "local", "shared"), ("c", "torchrun", "shared")]
    for name, launcher, copies in runs:
        arguments, memory = [*options, f"--output={name}.mp4"], memory_of_run(model, copies)
        if launcher == "local":
            process = shell.generate("--ranks=2", *arguments, **memory)
        else:
            process = shell.torchrun(2, *arguments, **memory)
        _, err = finish(process)
        assert tells_of_sharing(err) == (copies == "shared"), err
        made.append(hashes(shell.folder / f"{name}.mp4"))
        shell.await_nobody(15)
    assert made[0] == made[1] == made[2]


@pytest.mark.slow
def test_a_killed_rank_leaves_no_memory(shell: Shell, tmp_path: Path) -> None:
    model, before = write_two_experts(tmp_path / "experts"), names_in_shm()
    options = ("--prompt=x", "--ranks=2", *run_options(model), "--output=k.mp4")
    process = shell.generate(*options, fault="1 2 kill", **memory_of_run(model, "shared"))
    shell.await_line(process, "denoising")  # so all is loaded
    assert len(holders(shell.folder)) == 2, "both ranks have it"
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "rank 1 " in err.splitlines()[-1], err
    shell.await_nobody(15)
    assert not holders(shell.folder) and names_in_shm() <= before
