"""What each rank measures of a request: it agrees with the report, changes nothing, and shows who is late."""

import pickle
import time
from unittest import mock

import pytest

from engine.config import Config
from engine.denoise.experts import Experts
from engine.denoise.predictor import Prediction
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.generation.measurements import RankMeasurements, late_seconds, measurements_of_all
from engine.progress import Progress
from engine.request import make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.small_model import PROMPT, tiny_config

SMALL = ("sampling.steps=6", "sampling.frames=5", "sampling.height=32", "sampling.width=32")


def measure(ranks: Ranks, config: Config) -> tuple[dict, dict, list[RankMeasurements]]:
    """The reports of one request without and with measuring, and the measurements of all ranks."""
    engine = Engine(load_model(config, ranks), Progress())
    request = make_request([PROMPT], "", 7, config.sampling)
    plain = engine.generate(request)
    assert plain.measurements is None
    measured = engine.generate(request, measure=True)
    return plain.report, measured.report, measurements_of_all(measured.measurements, ranks)


@pytest.mark.parametrize(
    ("degrees", "kinds"),
    [
        (Degrees(ulysses=2), ("agreement", "all_gather", "all_to_all", "broadcast", "ring")),
        (Degrees(cfg=2), ("agreement", "broadcast", "guidance")),
    ],
    ids=str,
)
def test_measurements_agree_with_the_report(gang: Gang, degrees: Degrees, kinds: tuple[str, ...]) -> None:
    plain, report, by_rank = gang.run(measure, degrees, tiny_config("cache.threshold=10", *SMALL))[0]
    assert report["output"]["latents_sha256"] == plain["output"]["latents_sha256"], "measuring changed the video"
    totals = report["totals"]
    assert totals["collective_bytes_by_kind"] == plain["totals"]["collective_bytes_by_kind"]
    assert [rank.rank for rank in by_rank] == [0, 1]
    largest = {kind: max(rank.collective_bytes.get(kind, 0) for rank in by_rank) for kind in kinds}
    assert largest == totals["collective_bytes_by_kind"]
    actions = [row["action"] for row in report["steps"] if row["branch"] == "cond"]
    assert {"warmup", "skip"} <= set(actions), "the case shows nothing without both"
    for rank in by_rank:
        assert [step.index for step in rank.steps] == list(range(6))
        assert [step.action for step in rank.steps] == actions
        sent = {kind for kind, count in rank.collective_bytes.items() if count}
        assert sent <= rank.collective_seconds.keys() <= set(kinds)
        denoise = rank.stage_seconds["denoise"]
        assert 0.5 * denoise < sum(step.seconds for step in rank.steps) <= denoise
        assert all(0 < step.wait_seconds < step.seconds for step in rank.steps)
        assert sum(step.agreement_seconds for step in rank.steps) <= rank.agreement_seconds
        assert denoise + rank.stage_seconds["encode"] < rank.stage_seconds["total"]
        assert rank.block_fraction == totals["block_fraction"]
        assert pickle.loads(pickle.dumps(rank)) == rank


@pytest.mark.parametrize(
    ("degrees", "kinds"),
    [
        (Degrees(ring=2), ("ring",)),
        pytest.param(Degrees(ulysses=2, ring=2), ("all_to_all", "ring"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_time_between_kernels_is_the_rings(gang: Gang, degrees: Degrees, kinds: tuple[str, ...]) -> None:
    _, _, by_rank = gang.run(measure, degrees, tiny_config(*SMALL))[0]
    for rank in by_rank:
        assert rank.collective_seconds.keys() & ("all_to_all", "ring") == set(kinds)
        assert all(rank.collective_seconds[kind] > 0 for kind in kinds)


def measure_slowed(ranks: Ranks, config: Config, slow: int, seconds: float) -> list[RankMeasurements]:
    """One rank sleeps at the beginning of each step, so that others wait for it in the first block's all-to-all, or in
    the agreement where there is none before it."""
    predict = Experts.predict

    def slowed(experts: Experts, *args: object) -> Prediction:
        if ranks.rank == slow:
            time.sleep(seconds)
        return predict(experts, *args)

    engine = Engine(load_model(config, ranks), Progress())
    with mock.patch.object(Experts, "predict", slowed):
        result = engine.generate(make_request([PROMPT], "", 7, config.sampling), measure=True)
    return measurements_of_all(result.measurements, ranks)


@pytest.mark.parametrize("degrees", [Degrees(ulysses=2), Degrees(cfg=2)], ids=str)
def test_the_rank_that_is_slowed_is_the_one_that_is_late(gang: Gang, degrees: Degrees) -> None:
    by_rank = gang.run(measure_slowed, degrees, tiny_config(*SMALL), 1, 0.15)[0]
    late = late_seconds(by_rank)
    assert sum(slow > fast for fast, slow in zip(*late, strict=True)) >= 5, f"rank 1 sleeps in each of 6 steps: {late}"
    assert sum(late[1]) > 0.45, f"it sleeps 0.9 s in all: {late}"


def test_one_rank_waits_for_nobody() -> None:
    _, report, (alone,) = measure(Ranks(), tiny_config(*SMALL))
    assert alone.collective_seconds == {} == report["totals"]["collective_bytes_by_kind"]
    assert late_seconds([alone]) == [[0.0] * 6]
    assert all(step.seconds > 0 and step.wait_seconds == 0 for step in alone.steps)
