"""One copy of weights a machine, for ranks in Ray actors."""

from pathlib import Path
from typing import Any

import pytest

from engine.cost.host import Copies
from tests.support.host_weights import memory_of_run, run_options, tells_of_sharing
from tests.support.offloading import write_two_experts
from tests.support.ray_nodes import assert_nothing_left, on_ray
from tests.support.shell import Shell, finish, hashes

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


def test_actors_of_a_node_share_weights(elsewhere: Any, shell: Shell, tmp_path: Path) -> None:
    model = write_two_experts(tmp_path / "experts")
    made = []
    both: tuple[Copies, ...] = ("own", "shared")
    for copies in both:
        memory = memory_of_run(model, copies)
        _, err = finish(on_ray(shell, elsewhere, "--ranks=2", *run_options(model), f"--output={copies}.mp4", **memory))
        assert tells_of_sharing(err) == (copies == "shared"), err
        made.append(hashes(shell.folder / f"{copies}.mp4"))
        assert_nothing_left(elsewhere, shell)
    assert made[0] == made[1]
