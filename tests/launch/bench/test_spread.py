"""Spreads of samples, and what of a measured time is the machine's."""

import math
import os
import threading
import time

import pytest
import torch

from launch.bench.machine import Moment, Occupancy, ReferenceWork, idle_seconds, queued_seconds, step_idle_seconds
from launch.bench.spread import spread


def test_percentiles_are_linear_between_samples() -> None:
    found = spread([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (found.median, found.samples) == (3.0, 5)
    assert (found.p10, found.p90, found.p99) == pytest.approx((1.4, 4.6, 4.96))


def test_one_sample_is_its_own_spread() -> None:
    assert spread([2.5]).model_dump() == {"median": 2.5, "p10": 2.5, "p90": 2.5, "p99": 2.5, "samples": 1}


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_what_has_no_spread_is_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match=r"samples|Samples"):
        spread(samples)


def test_a_sleep_is_idle_and_work_is_not() -> None:
    start = Moment.now()
    time.sleep(0.2)
    slept = Moment.now()
    while time.perf_counter() - slept.wall < 0.2:
        pass
    worked = Moment.now()
    assert slept.idle_since(start) > 0.15 and slept.queued_since(start) < 0.1
    assert worked.idle_since(slept) < 0.1


def test_short_work_is_not_idle() -> None:
    """Work of a millisecond at a time, which a clock that moves on with the scheduler's ticks takes for waiting."""
    idle = []
    for _ in range(100):
        start = Moment.now()
        while time.perf_counter() - start.wall < 0.001:
            pass
        idle.append(Moment.now().idle_since(start))
    assert sorted(idle)[80] < 0.0002


def test_a_video_is_idle_only_where_all_ranks_are() -> None:
    ranks = [Occupancy(), Occupancy()]
    for rank, other in (ranks, ranks[::-1]):
        rank.queued, rank.idle = {"encode": 1.0, "denoise": 2.0}, {"encode": 0.5, "denoise": 3.0}
        other.queued["encode"] = 4.0
    ranks[1].idle["encode"] = 0.25
    ranks[0].step_idle, ranks[1].step_idle = [1.0, 2.0], [1.5, 0.5]
    stages = ("encode", "denoise", "total")
    assert queued_seconds(ranks, stages) == {"encode": 4.0, "denoise": 2.0, "total": 0.0}
    assert idle_seconds(ranks, stages) == {"encode": 0.25, "denoise": 1.5, "total": 1.75}
    assert step_idle_seconds(ranks) == [1.0, 0.5]


def test_occupancy_is_by_stage_and_step() -> None:
    seen = Occupancy()
    seen.doing("encode")
    seen.doing("denoise")
    time.sleep(0.2)
    seen.step(0, 1, "compute")
    seen.doing("decode")
    time.sleep(0.1)
    seen.doing("denoise")
    seen.end()
    assert 0.1 < seen.step_idle[0] <= seen.idle["denoise"] and 0.05 < seen.idle["decode"] < seen.idle["total"]
    assert seen.idle["encode"] < seen.idle["decode"]


def test_waiting_for_the_processor_is_counted() -> None:
    """Threads of this process on one core, so that all but one of them wait."""

    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("needs Linux")
    waited: list[float] = []

    def work() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of this thread alone
        before = Moment.now()
        matrix = torch.ones(600, 600)
        while time.perf_counter() - before.wall < 0.2:
            torch.mm(matrix, matrix)  # without the interpreter's lock
        waited.append(Moment.now().queued_since(before))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(waited) > 0.1


def test_the_reference_is_a_time() -> None:
    assert 0 < ReferenceWork(torch.device("cpu")).seconds() < 1
