"""Bytes that a rank sends while it denoises, by kind of collective, as :mod:`parallel.meter` counts them.

Ulysses (Jacobs et al. 2023, arXiv 2309.14509): query, key, value and output each send (U-1)/U of a rank's tokens. A
ring (Liu et al. 2023, arXiv 2310.01889) passes key and value on R-1 times. What is uneven travels as the longest shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.cost.flops import LaneStep, own_lanes
from engine.cost.lanes import LaneInputs, Share, share_of
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
        lanes: one for each guidance branch of each sample, cond first.
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
    if degrees.sequence > 1:
        sent |= {"all_to_all": 0, "ring": 0, "all_gather": 0}
        for number in own:
            of_block = block_traffic(shape, share_of(shape, lanes[number], degrees, rank), degrees, block_bytes)
            blocks = sum(step[number].num_blocks for step in steps)
            sent["all_to_all"] += blocks * of_block.all_to_all
            sent["ring"] += blocks * of_block.ring
            sent["all_gather"] += len(steps) * gather_bytes(shape, lanes[number], degrees, block_bytes)
    if degrees.cfg > 1:
        sent["guidance"] = len(steps) * sum(guidance_bytes(shape, lanes[number], block_bytes) for number in own)
    return sent


class BlockTraffic(NamedTuple):
    """Bytes that a rank sends in one block of one lane."""

    all_to_all: int
    ring: int


def block_traffic(shape: TransformerShape, share: Share, degrees: Degrees, block_bytes: int) -> BlockTraffic:
    """Of query, key, value and output in Ulysses, of key and value in the ring."""
    shard = share.queries * shape.dim * block_bytes
    return BlockTraffic(
        all_to_all=4 * (degrees.ulysses - 1) * (shard // degrees.ulysses),
        ring=2 * (degrees.ring - 1) * shard,
    )


def gather_bytes(shape: TransformerShape, lane: LaneInputs, degrees: Degrees, block_bytes: int) -> int:
    """That a rank sends in a step so that all have the velocity of a lane."""
    longest = max(split_evenly(lane.tokens, degrees.sequence))
    return longest * _velocity(shape, block_bytes) * (degrees.sequence - 1)


def guidance_bytes(shape: TransformerShape, lane: LaneInputs, block_bytes: int) -> int:
    """That a rank sends in a step to the one rank that has the other branch of a lane."""
    return lane.tokens * _velocity(shape, block_bytes)


def _velocity(shape: TransformerShape, block_bytes: int) -> int:
    """Bytes of one token."""
    return shape.out_channels * shape.patch_values * block_bytes
