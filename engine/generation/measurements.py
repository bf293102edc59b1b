"""What one rank measured while it worked on one request, as plain numbers that can be pickled.

    result = engine.generate(request, output, measure=True)
    by_rank = measurements_of_all(result.measurements, engine.model.ranks)   # collective over the replica
    late = late_seconds(by_rank)                                            # of each rank, by step

Times of collectives are measured on request alone (``measure``). They include the wait for ranks that come later.
Over gloo they are wall-clock seconds. On CUDA they are the device's, between two events on the stream that runs the
collective. Two kinds overlap with other work there, and do not add up with it: "weights" runs on a stream of its own
beside the blocks, and of a "ring" only what no kernel covers is counted (:mod:`parallel.ring`). The transfer of Python
objects, as of the shapes before a broadcast, is not measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from parallel.broadcast import objects_of_all
from parallel.ranks import Ranks


@dataclass(frozen=True)
class StepMeasurements:
    """One denoise step: the whole body of the loop, with predictor, collectives and sampler.

    action: "warmup" or "compute", or "skip" where every lane and segment of the request was estimated, also those that
    other ranks compute. collective_seconds: by kind, as the bytes are counted; empty on one rank.
    """

    index: int
    action: str
    seconds: float
    collective_seconds: dict[str, float]

    @property
    def agreement_seconds(self) -> float:
        """In the gather on which the decision rests, with the wait for later ranks; 0 on one rank."""
        return self.collective_seconds.get("agreement", 0.0)

    @property
    def wait_seconds(self) -> float:
        """In all collectives of the step, with the waits for later ranks."""
        return sum(self.collective_seconds.values())


class TextLength(NamedTuple):
    """Of a text, in tokens."""

    tokens: int
    padding: int


@dataclass(frozen=True)
class RankMeasurements:
    """One rank's part in one request.

    Attributes:
        rank: in the job, from 0.
        host, device: the machine's name, and the GPU's or "cpu, 2 threads a rank".
        stage_seconds: "encode", "denoise", "decode", "write", and "total" from the start of the request, without
            loading, until its files are written.
        steps: those of this run, in order; an earlier run of the same request may have done some before.
        collective_bytes, collective_seconds: by kind, over the whole request; the bytes are the report's.
        agreement_seconds: as the report's: with the wait for this rank's own device.
        block_fraction: of the transformer blocks, those that ran; the same on every rank.
        peak_memory_bytes, cache_bytes, weight_bytes: as the report's, of this rank.
        texts: of every lane of the request, in the order of ``engine.denoise.guidance.all_lanes``, the length of each
            text by the name of its mask. Without names where texts count with their padding (Wan); without lanes where
            an earlier run of the request encoded them.
    """

    rank: int
    host: str
    device: str
    stage_seconds: dict[str, float]
    steps: tuple[StepMeasurements, ...]
    collective_bytes: dict[str, int]
    collective_seconds: dict[str, float]
    agreement_seconds: float
    block_fraction: float
    peak_memory_bytes: int
    cache_bytes: int
    weight_bytes: int
    texts: tuple[Mapping[str, TextLength], ...] = ()


def text_lengths(lane: Mapping[str, Tensor]) -> dict[str, TextLength]:
    """The lengths of a lane's texts by the names of their masks, [1, tokens], which are true for what is no padding."""
    return {
        name: TextLength(int(mask.sum()), mask.numel() - int(mask.sum()))
        for name, mask in lane.items()
        if "mask" in name
    }


def measurements_of_all(own: RankMeasurements, ranks: Ranks) -> list[RankMeasurements]:
    """Those of every rank of the replica, in rank order, on every rank; collective over the replica."""
    return objects_of_all(own, ranks)


def late_seconds(of_replica: Sequence[RankMeasurements]) -> list[list[float]]:
    """How late each rank of a replica was, by step; the outer list is in the order of the ranks.

    In every step all ranks meet in collectives, where the early wait for the late. So a rank is as late as the longest
    wait of the replica is longer than its own. No clock is compared with another machine's. All collectives of the step
    count, since a rank that is late in a block is waited for in the next all-to-all, before the agreement.
    """
    waits = [[step.wait_seconds for step in rank.steps] for rank in of_replica]
    longest = [max(together) for together in zip(*waits, strict=True)]
    return [[most - own for most, own in zip(longest, rank, strict=True)] for rank in waits]


def by_step(
    step_seconds: Mapping[int, float],
    actions: Mapping[int, str],
    collective_seconds: Mapping[tuple[int | None, str], float],
) -> tuple[StepMeasurements, ...]:
    """The steps whose end was seen, in order.

    Args:
        collective_seconds: by step and kind; the step is None outside of the denoise steps.
    """
    kinds: defaultdict[int | None, dict[str, float]] = defaultdict(dict)
    for (step, kind), seconds in collective_seconds.items():
        kinds[step][kind] = seconds
    return tuple(
        StepMeasurements(index, actions[index], step_seconds[index], kinds[index]) for index in sorted(step_seconds)
    )


def by_kind(collective_seconds: Mapping[tuple[int | None, str], float]) -> dict[str, float]:
    """Sums over all steps, and over what is outside of them."""
    sums: defaultdict[str, float] = defaultdict(float)
    for (_, kind), seconds in collective_seconds.items():
        sums[kind] += seconds
    return dict(sums)
