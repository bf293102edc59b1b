"""What `lockstep bench --mlperf` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from engine.errors import InvalidInput
from launch.ranks.place import Launcher, find_place
from launch.ranks.program import run_on_ranks

_TAKEN = ("CONFIG", "--output", "--prompts", "--mlperf", "--latent", "--ranks", "--launcher", "--set")


def refuse_beside_mlperf(given: Mapping[str, object]) -> None:
    """
    Args:
        given: the options of `bench` with their values.

    Raises:
        InvalidInput: one was given that the test has no use for, since the standard says what is made.
    """
    for name, value in given.items():
        if value and name not in _TAKEN:
            raise InvalidInput(f"{name} has no use beside --mlperf, whose standard says what is made: leave it out.")


def run_mlperf_test(
    config: str,
    scenario: str,
    output: Path,
    prompts: Path | None = None,
    latent: Path | None = None,
    ranks: int | None = None,
    launcher: Launcher | None = None,
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
    if launcher is Launcher.RAY:
        raise InvalidInput(
            "--launcher is ray, but with --mlperf LoadGen works in the first rank: use local ranks or torchrun."
        )
    options = MlperfOptions(config, Scenario(scenario), prompts, output, tuple(overrides), latent)
    place = find_place(launcher, ranks)
    return run_on_ranks(place, lambda place: prepare_mlperf(options, place), run_mlperf, partial(print_table, output))
