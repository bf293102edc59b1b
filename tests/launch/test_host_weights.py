"""One copy of weights a machine, in runs as a person starts them. The ranks of a machine find each other alike under
every launcher; tests/launch/on_ray has the run on Ray."""

from pathlib import Path

import pytest

from engine.cost.host import Copies
from tests.support.host_weights import memory_of_run, run_options, tells_of_sharing
from tests.support.offloading import write_two_experts
from tests.support.shell import Shell, finish, hashes


@pytest.mark.slow
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
    assert made[0] == made[1] == made[2]
