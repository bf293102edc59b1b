"""What `lockstep bench --mlperf` does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from engine.errors import InvalidInput
from launch.commands.ranks import run_work
from launch.ranks.place import Launcher

_TAKEN = ("CONFIG", "--output", "--prompts", "--mlperf", "--latent", "--ranks", "--launcher", "--ray-address", "--set")


def refuse_beside_mlperf(given: Collection[str]) -> None:
    """
    Args:
        given: by their names, the options of `bench` that were given.

    Raises:
        InvalidInput: one was given that the test has no use for, since the standard says what is made.
    """
    for name in given:
        if name not in _TAKEN:
            raise InvalidInput(f"{name} has no use beside --mlperf, whose standard says what is made: leave it out.")


def run_mlperf_test(
    config: str,
    scenario: str,
    output: Path,
    prompts: Path | None = None,
    latent: Path | None = None,
    ranks: int | None = None,
    launcher: Launcher | None = None,
    ray_address: str | None = None,
    overrides: Sequence[str] = (),
) -> int:
    """Have MLPerf's load generator measure a configuration. Returns the exit code.

    Args:
        scenario: "singlestream" or "offline".

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    from launch.mlperf.job import MlperfOptions, prepare_mlperf
    from launch.mlperf.run import run_mlperf
    from launch.mlperf.standard import Scenario
    from launch.screens.measurements import print_table

    names = [each.value for each in Scenario]
    if scenario not in names:
        raise InvalidInput(f"--mlperf is {scenario!r}: use {' or '.join(names)}.")
    options = MlperfOptions(config, Scenario(scenario), prompts, output, tuple(overrides), latent)
    prepare = partial(prepare_mlperf, options)
    return run_work(launcher, ranks, ray_address, prepare, run_mlperf, partial(print_table, output))
