"""The cost of checkpoints: denoise time with them over without, and the bytes of one.

    python -m launch.benchmarks.checkpoints configs/tiny-wan.yaml --rounds 9

One process, one rank. Runs with and without checkpoints take turns, also in who is first, so that a change in the
machine's speed affects both; the results are ratios within each round. The cache is on, since it is most of the state.
"""

from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from engine.checks.preflight import preflight
from engine.config import CheckpointConfig
from engine.engine import Engine
from engine.request import Outputs, Task, make_request
from launch.benchmarks.script import run_script
from launch.jobs.config import load_job_config
from launch.process.scratch import scratch_folder
from parallel.place import Place

PROMPT = "a red circle moving right on a navy background"


def main(
    config_file: Annotated[Path, typer.Argument(help="A configuration of a text-to-video model.")],
    rounds: Annotated[int, typer.Option(help="Rounds to take the median of; one more goes first, uncounted.")] = 9,
    every: Annotated[int, typer.Option(help="Denoise steps between checkpoints.")] = 5,
    threads: Annotated[int, typer.Option(help="CPU threads of torch.")] = 1,
) -> None:
    """Print the ratio of every round, and the medians."""
    torch.set_num_threads(threads)
    config = load_job_config(config_file)
    request = make_request([PROMPT], "", 0, config.sampling)
    config = preflight(config, [Task(request, Outputs())], Place(1)).config
    engine = Engine.load(config)
    saving = engine.configured(config.model_copy(update={"checkpoint": CheckpointConfig(every=every)}))

    def totals(with_checkpoints: bool) -> dict[str, Any]:
        if not with_checkpoints:
            report = engine.generate(request).report
        else:
            with scratch_folder() as folder:
                report = saving.generate(request, checkpoint=folder / "request").report
        assert report
        found: dict[str, Any] = report["totals"]
        return found

    print("| round | denoise time with checkpoints / without | waited for them | checkpoints | bytes of one |")
    print("|---|---|---|---|---|")
    ratios, waits = [], []
    for number in range(-1, rounds):
        order = (True, False) if number % 2 else (False, True)
        taken = {with_checkpoints: totals(with_checkpoints) for with_checkpoints in order}
        seconds = {key: taken[key]["seconds"]["denoise"] for key in taken}
        written = taken[True]["checkpoints"]
        if number >= 0:  # the first round warms up
            ratios.append(seconds[True] / seconds[False])
            waits.append(written["seconds"] / seconds[True])
            print(f"| {number} | {ratios[-1]:.3f} | {waits[-1]:.2%} | {written['count']} | {written['bytes']:,} |")
    print(f"\nmedian: with / without {median(ratios):.3f} (at most 1.02), waited {median(waits):.2%} of denoise time")


if __name__ == "__main__":
    run_script(main)
