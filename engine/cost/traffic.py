"""Bytes that a rank sends while it denoises, by kind of collective, as :mod:`parallel.meter` counts them.

Ulysses (Jacobs et al. 2023, arXiv 2309.14509): query, key, value and output each send (U-1)/U of a rank's tokens. A
ring (Liu et al. 2023, arXiv 2310.01889) passes key and value on R-1 times. What is uneven travels as the longest shard.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.cost.flops import LaneStep, own_lanes
from engine.cost.lanes import LaneInputs, share_of
from engine.cost.shape import TransformerShape
from parallel.degrees import Degrees
from parallel.lengths import split_evenly

_HEADER = 4  # numbers before a step's sums: step, tokens, control word and finiteness
_FLOAT64 = 8


def collective_bytes(
    shape: TransformerShape,
    lanes: Sequence[LaneInputs],
    steps: Sequence[Sequence[LaneStep]],
    degrees: Degrees,
    rank: int = 0,
    *,
    block_bytes: int = 2,
    sums: Sequence[int] = (),
) -> dict[str, int]:
    """Of one video: ``all_to_all``, ``ring``, ``all_gather`` of velocities, ``guidance`` and ``agreement``. A kind that
    the layout does not have is not named.

    Args:
        lanes: one for each guidance branch, cond first.
        steps: what each step runs of each lane. A step without a head sends its estimate all the same.
        block_bytes: of a number between blocks: 2 in bfloat16, 4 in float32.
        sums: float64 numbers that each step's agreement carries, over all lanes; none where left out, as without a
            cache.
    """
    own = own_lanes(len(lanes), degrees, rank)
    sent: dict[str, int] = {}
    if degrees.replica_size > 1:
        numbers = _HEADER * len(steps) + sum(sums)
        sent["agreement"] = numbers * _FLOAT64 * (degrees.replica_size - 1)
    velocity = shape.out_channels * shape.patch_values * block_bytes
    if degrees.sequence > 1:
        sent |= {"all_to_all": 0, "ring": 0, "all_gather": 0}
        for number in own:
            lane = lanes[number]
            shard = share_of(shape, lane, degrees, rank).queries * shape.dim * block_bytes
            blocks = sum(step[number].num_blocks for step in steps)
            sent["all_to_all"] += blocks * 4 * (degrees.ulysses - 1) * (shard // degrees.ulysses)
            sent["ring"] += blocks * 2 * (degrees.ring - 1) * shard
            longest = max(split_evenly(lane.tokens, degrees.sequence))
            sent["all_gather"] += len(steps) * longest * velocity * (degrees.sequence - 1)
    if degrees.cfg > 1:
        sent["guidance"] = len(steps) * lanes[own[0]].tokens * velocity
    return sent
