"""The planner against what this machine measures, after calibration on two of eight sizes.

The machine drifts within seconds, so all sizes take turns, with the cache and without it: each round makes one video of
each. The test takes 50 minutes. LOCKSTEP_PLAN_PASSES is the number of passes, of six rounds each. LOCKSTEP_PLAN_FOLDER
keeps the results, and those that are there are not measured anew.
"""

import os
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest

from launch.bench.reading import read_document
from launch.bench.turns.build import this_build
from launch.bench.turns.other import OtherBuild
from launch.jobs.config import load_job_config
from launch.planner.run import PlanOptions, make_plan
from tests.support.small_model import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
CONFIG = "configs/tiny-wan.yaml"
SIZES = [
    (5, 64, 64),
    (9, 64, 64),
    (17, 64, 64),
    (17, 96, 64),
    (17, 96, 96),
    (17, 128, 96),
    (17, 128, 128),
    (33, 96, 96),
]
CALIBRATED = (SIZES[0], SIZES[6])
RANKS = (1, 2)
STEPS = 10
PASSES = int(os.environ.get("LOCKSTEP_PLAN_PASSES", "2"))
ROUNDS = 6
CACHES = {"off": ["cache.method=none"], "on": []}
BOUND = 0.10


def overrides(size: tuple[int, int, int]) -> list[str]:
    frames, height, width = size
    values = {"steps": STEPS, "frames": frames, "height": height, "width": width}
    return [f"sampling.{name}={value}" for name, value in values.items()]


def name(size: tuple[int, int, int], ranks: int, cache: str) -> str:
    return f"{'x'.join(map(str, size))}-{ranks}-{cache}"


def wait(bench: OtherBuild) -> None:
    deadline = time.monotonic() + 300
    while bench.answered(5.0) is None:
        assert time.monotonic() < deadline, "a bench has not answered for 5 minutes"


def measure(folder: Path, ranks: int) -> None:
    """Results of all sizes on that many ranks, with the cache and without it, each in a folder of its own. Every
    process holds a model, so that one number of ranks after the other fits a machine of 16 GB."""
    # a process that dies with its parent dies with the thread that started it: the threads stay until the end
    with ThreadPoolExecutor(2) as threads, ExitStack() as running:

        def load(work: tuple[tuple[int, int, int], str]) -> OtherBuild:
            size, cache = work
            own = folder / name(size, ranks, cache)
            sets = [f"--set={override}" for override in (*overrides(size), *CACHES[cache])]
            arguments = [
                "bench",
                str(ROOT / CONFIG),
                f"--ranks={ranks}",
                f"--rounds={ROUNDS}",
                f"--output={own}",
                *sets,
            ]
            bench = running.enter_context(OtherBuild(this_build(), arguments, folder / f"{own.name}.log"))
            bench.order("load")
            wait(bench)
            return bench

        benches = list(threads.map(load, product(SIZES, CACHES)))
        for bench in benches:
            bench.order("warm_up")
            wait(bench)
        order = random.Random(0)
        for number in range(ROUNDS):
            for bench in order.sample(benches, len(benches)):
                bench.order("video", round=number, prompt=0)
                wait(bench)
        for bench in benches:
            bench.order("write")
            wait(bench)


def predicted(size: tuple[int, int, int], ranks: int, skip_share: float, passes: list[Path]) -> dict[str, float]:
    """Seconds of a video without the cache and with it."""
    config = load_job_config(str(ROOT / CONFIG), overrides(size), lambda note: None)
    names = [name(each, count, cache) for each in CALIBRATED for count in RANKS for cache in CACHES]
    calibrate = [folder / each for folder in passes for each in names]
    planned = make_plan(config, PlanOptions(f"1x{ranks}xcpu", calibrate=calibrate, skip_share=skip_share)).configured
    assert planned is not None
    return {"off": planned.cache_off, "on": planned.cache_on}


def test_predictions_are_within_a_tenth_of_what_is_measured(tmp_path: Path) -> None:
    folder = Path(os.environ.get("LOCKSTEP_PLAN_FOLDER", tmp_path))
    passes = [folder / f"pass-{number + 1}" for number in range(PASSES)]
    for each, ranks in product(passes, RANKS):
        if not (each / name(SIZES[-1], ranks, "on") / "bench.json").exists():
            each.mkdir(parents=True, exist_ok=True)
            measure(each, ranks)
    errors = []
    for ranks, size in product(RANKS, SIZES):
        documents = {cache: [read_document(each / name(size, ranks, cache)) for each in passes] for cache in CACHES}
        cached = documents["on"][0]
        share = cached.steps_skipped / (cached.steps_skipped + cached.steps_computed)
        for cache, seconds in predicted(size, ranks, share, passes).items():
            samples = [sample.seconds["total"] for document in documents[cache] for sample in document.samples]
            found = statistics.median(samples)
            error = seconds / found - 1
            print(f"{name(size, ranks, cache):18} predicted {seconds:6.2f} s, measured {found:6.2f} s, {error:+.0%}")
            errors.append(abs(error))
    print(f"median {statistics.median(errors):.1%}, largest {max(errors):.1%}")
    assert max(errors) <= BOUND
