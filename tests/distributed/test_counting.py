"""The run report's bytes are those of the theory, for every kind of collective."""

import pytest

from engine.config import Config
from engine.cost.flops import computed, skipped
from engine.cost.lanes import lane_inputs
from engine.cost.shape import read_shape
from engine.cost.traffic import collective_bytes
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.small_model import CONFIG, PROMPT, tiny_config

STEPS, LANES, BLOCKS, DIM, FLOAT = 3, 2, 12, 128, 4
SIZES = {80: (17, 64, 64), 42: (5, 48, 112)}  # by tokens
TEXT_BYTES = 512 * 64 * FLOAT
VELOCITY_OF_TOKEN = 1 * 2 * 2 * 16 * FLOAT


def generate(ranks: Ranks, configs: list[Config]) -> list[dict | None]:
    model = load_model(configs[0], ranks)
    return [
        Engine(model, Progress()).generate(make_request([PROMPT], "", 7, config.sampling)).report for config in configs
    ]


@pytest.mark.parametrize(
    "degrees",
    [
        Degrees(ulysses=2),
        Degrees(ulysses=4),
        Degrees(ring=2),
        Degrees(ring=3),
        Degrees(ulysses=2, ring=2),
        Degrees(cfg=2, ulysses=2),
        Degrees(cfg=2),
    ],
    ids=str,
)
def test_bytes_of_a_whole_run(gang: Gang, degrees: Degrees) -> None:
    """Ulysses (Jacobs et al. 2023): query, key, value and output each send (U-1)/U of a rank's tokens; a ring (Liu et
    al. 2023) passes key and value on R-1 times. What is uneven travels as the longest shard."""
    configs = []
    for frames, height, width in SIZES.values():
        sizes = (f"sampling.frames={frames}", f"sampling.height={height}", f"sampling.width={width}")
        configs.append(tiny_config("cache.method=none", f"sampling.steps={STEPS}", *sizes))
    for tokens, report in zip(SIZES, gang.run(generate, degrees, configs)[0], strict=True):
        expected = theory(degrees, tokens)
        counted = report["totals"]["collective_bytes_by_kind"]
        assert counted == expected
        assert {kind: counted[kind] for kind in counted if kind != "broadcast"} == by_formula(degrees, tokens)
        assert report["totals"]["collective_bytes_per_rank"] == sum(expected.values())


def theory(degrees: Degrees, tokens: int) -> dict[str, int]:
    """Bytes that a rank sends, by kind; a kind that is not named must not be counted at all."""
    longest = -(-tokens // degrees.sequence)
    own_lanes = LANES // degrees.cfg
    passes = STEPS * own_lanes
    peers = degrees.replica_size - 1
    shard_bytes = longest * DIM * FLOAT
    expected = {
        "agreement": STEPS * 4 * 8 * peers,  # step, tokens, control and finiteness; without a cache there are no sums
        "broadcast": LANES * TEXT_BYTES * peers,
    }
    if degrees.sequence > 1:  # one of Ulysses and ring may send nothing, and is named with a zero
        expected |= {
            "all_to_all": passes * BLOCKS * 4 * shard_bytes * (degrees.ulysses - 1) // degrees.ulysses,
            "ring": passes * BLOCKS * 2 * shard_bytes * (degrees.ring - 1),
            "all_gather": passes * longest * VELOCITY_OF_TOKEN * (degrees.sequence - 1),
        }
    if degrees.cfg > 1:
        expected["guidance"] = STEPS * tokens * VELOCITY_OF_TOKEN * (degrees.cfg - 1)
    return expected


def by_formula(degrees: Degrees, tokens: int) -> dict[str, int]:
    shape = read_shape(CONFIG.parent / "tiny_wan")
    lane = lane_inputs(shape, tokens, prompt=512)
    steps = [[computed(shape)] * LANES] * STEPS
    return collective_bytes(shape, [lane] * LANES, steps, degrees, block_bytes=FLOAT)


@pytest.mark.parametrize("degrees", [Degrees(ulysses=2), Degrees(cfg=2, ring=2)], ids=str)
def test_bytes_of_skipped_steps(gang: Gang, degrees: Degrees) -> None:
    """A skipped step sends what the probe's blocks send, and a velocity."""
    sizes = ("sampling.frames=5", "sampling.height=48", "sampling.width=112")
    config = tiny_config("cache.method=dicache", "cache.threshold=100", *sizes)
    report = gang.run(generate, degrees, [config])[0][0]
    shape = read_shape(CONFIG.parent / "tiny_wan")
    rows = [row for row in report["steps"] if row["branch"] == "cond"]
    assert {row["action"] for row in rows} >= {"skip"}
    kinds = {"skip": skipped(shape, 1)}
    steps = [[kinds.get(row["action"], computed(shape))] * LANES for row in rows]
    lane = lane_inputs(shape, 42, prompt=512)
    expected = collective_bytes(shape, [lane] * LANES, steps, degrees, block_bytes=FLOAT)
    counted = report["totals"]["collective_bytes_by_kind"]
    names = expected.keys() - {"agreement"}  # whose sums are the method's
    assert {kind: counted[kind] for kind in names} == {kind: expected[kind] for kind in names}
