"""From what ranks recorded to the document: pure arithmetic."""

from collections.abc import Sequence

import pytest

from engine.errors import InvalidInput
from engine.generation.measurements import RankMeasurements, StepMeasurements
from launch.bench.assemble import assemble
from launch.bench.document import BenchDocument
from launch.bench.flops import Counted
from launch.bench.machine import Occupancy
from launch.bench.records import RankRecord, VariantName, VideoMade, VideoRecord
from launch.bench.rounds import in_turn
from launch.bench.scale import merge, part_arguments, read_counts
from parallel.degrees import Degrees

ACTIONS = ("warmup", "compute", "skip", "skip")
STEP = {"warmup": 1.0, "compute": 1.0, "skip": 0.25}


def video(variant: VariantName, round: int, rank: int, slower: float = 1.0, replica_size: int = 2) -> VideoRecord:
    """Rank 1 of a replica comes 10 ms late to every step, so rank 0 waits for it."""
    cached = variant == "given"
    actions = ACTIONS if cached else ("compute",) * 4
    late = rank % replica_size == replica_size - 1
    wait = {"agreement": 0.002 if late else 0.012} if replica_size > 1 else {}
    steps = tuple(StepMeasurements(i, action, slower * STEP[action], wait) for i, action in enumerate(actions))
    denoise = sum(step.seconds for step in steps)
    stages = {"encode": 0.5, "denoise": denoise, "decode": 0.25, "write": 0.25, "total": denoise + 1}
    fraction = 0.5 if cached else 1.0
    measured = RankMeasurements(
        rank, f"host{rank}", "cpu", stages, steps, {"agreement": 100 + rank}, {"agreement": 0.1}, 0.1, fraction,
        1000 + rank, 10 if cached else 0, 5,
    )  # fmt: skip
    flops = Counted({"attention": 4e9 * fraction}, {"denoise": 4e9 * fraction, "decode": 1e9})
    made = VideoMade(f"{variant}", flops, 30.0 if cached and round == 0 else None)
    first = rank % replica_size == 0
    return VideoRecord(variant, round, 0, 7, measured, Occupancy(), 0.01, made if first else None)


def records(replicas: int = 1, size: int = 2, variants: Sequence[VariantName] = ("given", "cache_off")) -> list:
    """Each replica makes every second round; the second round is half as fast."""
    return [
        RankRecord(
            rank,
            rank // size,
            f"host{rank}",
            "cpu",
            1.0 + rank,
            2.0,
            3.0,
            1e9,
            [
                video(name, number, rank, 1.0 + number, size)
                for number in range(2)
                if number % replicas == rank // size
                for name in variants
            ],
        )
        for rank in range(replicas * size)
    ]


def document(replicas: int = 1, size: int = 2) -> BenchDocument:
    return assemble(
        records(replicas, size), Degrees(replicas, 1, size, 1), {"given": 16, "cache_off": 16}, {"config": {}}
    )


@pytest.mark.parametrize("replicas", [1, 2])
def test_seconds_and_videos_an_hour_agree(replicas: int) -> None:
    results = document(replicas)
    assert results.videos == 2 and results.seconds_per_video.samples == 2
    assert results.seconds_per_video.median == (3.5 + 6) / 2
    assert results.seconds_per_video.median * results.videos_per_hour == pytest.approx(3600 * replicas)
    assert results.videos_per_hour_per_rank == results.videos_per_hour / (2 * replicas)
    assert results.frames_per_second == pytest.approx(results.videos_per_hour * 16 / 3600)
    assert results.steps_per_second == pytest.approx(8 / (2.5 + 5))
    assert {sample.replica for sample in results.samples} == set(range(replicas))
    assert results.startup_seconds.import_ == 2 * replicas, "of the slowest rank"
    assert results.made_with["hosts"] == [f"host{rank}" for rank in range(2 * replicas)]


def test_steps_and_the_gain_of_the_cache() -> None:
    results = document()
    assert results.steps.computed and results.steps.skipped and results.cache_off and results.cache_gain
    assert (results.steps.computed.median, results.steps.skipped.median) == (1.5, 0.375)
    assert (results.steps_computed, results.steps_skipped) == (2, 2)
    assert results.cache_off.steps.skipped is None and results.cache_off.steps_computed == 4
    gain = results.cache_gain
    assert gain.speedup.median == 1.6 and gain.speedup.samples == 2 and gain.ideal == 2
    assert gain.share_of_ideal == pytest.approx((6 - 3.75) / (0.5 * 6))
    assert gain.end_to_end.median == pytest.approx((5 / 3.5 + 9 / 6) / 2)
    assert gain.psnr_db and gain.psnr_db.median == 30 and gain.psnr_db.samples == 1, "of one round: all are the same"


def test_the_late_rank_is_named_and_the_agreement_counts_without_its_wait() -> None:
    results = document()
    assert results.skew and results.skew.late_rank == 1 and results.skew.late_share == 1
    assert results.skew.seconds.median == pytest.approx(0.01)
    assert results.agreement_microseconds and results.agreement_microseconds.median == pytest.approx(2000)
    first, second = results.ranks
    assert first.late_seconds and second.late_seconds
    assert (first.late_seconds.median, second.late_seconds.median) == (0, pytest.approx(0.01))
    assert first.wait_seconds > second.wait_seconds
    assert results.collective_bytes_by_kind == {"agreement": 101} and results.peak_memory_bytes == 1001
    alone = document(1, 1)
    assert alone.skew is None and alone.agreement_microseconds is None and alone.ranks[0].late_seconds is None


def test_flops_are_of_what_ran_and_share_the_peak_of_all_ranks() -> None:
    results = document(2)
    assert results.flops and results.flops.per_video == 2e9 == sum(results.flops.by_kind.values())
    assert results.flops.denoise_per_second == pytest.approx(2 * 2e9 / 3.75)
    assert results.flops.share_of_peak == pytest.approx(results.flops.denoise_per_second / 4e9)


def test_a_rank_that_made_nothing_has_an_empty_row() -> None:
    half = [
        record if record.replica == 0 else RankRecord(*list(vars(record).values())[:-1], []) for record in records(2)
    ]
    results = assemble(half, Degrees(2, 1, 2, 1), {"given": 16}, {})
    assert results.ranks[3].stages == {} and results.ranks[3].late_seconds is None and results.videos == 1


def test_each_variant_comes_first_as_often() -> None:
    assert [in_turn("ab", turn)[0] for turn in range(4)] == ["a", "b", "a", "b"]
    assert [in_turn("abc", turn) for turn in range(3)] == [list("abc"), list("bca"), list("cab")]


def test_scaling_is_over_the_fewest_ranks_with_the_cache_and_without() -> None:
    one, two = document(1, 1), document(1, 2)
    faster = two.model_copy(update={"seconds_per_video": one.seconds_per_video.model_copy(update={"median": 2.375})})
    merged = merge([one, faster])
    assert merged.world_size == 2 and [row.world_size for row in merged.scale] == [1, 2]
    assert [(row.speedup_on, row.efficiency_on) for row in merged.scale] == [(1, 1), (2, 1)]
    assert [(row.speedup_off, row.efficiency_off) for row in merged.scale] == [(1, 1), (1, 0.5)]
    assert BenchDocument.model_validate_json(merged.model_dump_json(by_alias=True)) == merged


def test_numbers_of_ranks() -> None:
    assert read_counts("4,1, 2") == [1, 2, 4]
    for text, word in {"1,x": "'x'", "0": "'0'", "": "''", "2,2": "2 twice", "1,-2": "'-2'"}.items():
        with pytest.raises(InvalidInput, match=f"--scale names {word}"):
            read_counts(text)


def test_a_part_has_the_arguments_of_the_whole_but_its_own_ranks_and_folder(tmp_path) -> None:
    given = ["bench", "c.yaml", "--scale", "1,2", "--output=all", "--rounds", "3", "--set", "a=b"]
    part = part_arguments(given, 2, tmp_path)
    assert part == ["bench", "c.yaml", "--rounds", "3", "--set", "a=b", "--ranks=2", f"--output={tmp_path}"]
