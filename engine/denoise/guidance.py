"""Guidance branches: which lanes a request has, which a rank computes, and how branches are combined."""

import torch
import torch.distributed as dist
from torch import Tensor

from dicache.controller import Lane
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks

BRANCHES = ("cond", "uncond")


def all_lanes(num_samples: int, num_branches: int) -> tuple[Lane, ...]:
    """The lanes of a request, one for each sample and branch, in the same order on every rank.

    Args:
        num_branches: ``ModelFacts.num_branches`` of the request's guidance, 1 or 2.
    """
    return tuple(Lane(sample, branch) for sample in range(num_samples) for branch in BRANCHES[:num_branches])


def own_lanes(lanes: tuple[Lane, ...], ranks: Ranks) -> tuple[Lane, ...]:
    """The lanes that this rank computes: all, or one branch where cfg-parallel splits them."""
    if ranks.cfg_group is None:
        return lanes
    return tuple(lane for lane in lanes if lane.branch == BRANCHES[ranks.cfg_rank])


def collect(velocities: dict[Lane, Tensor], ranks: Ranks, meter: CollectiveMeter) -> dict[str, Tensor]:
    """The velocity of each branch, exchanged between ranks where cfg-parallel splits them; collective over these.

    Args:
        velocities: [1, channels, frames, height, width] for each lane of this rank.

    Returns:
        For each branch all samples, [samples, channels, frames, height, width], on every rank.
    """
    own = {branch: [v for lane, v in velocities.items() if lane.branch == branch] for branch in BRANCHES}
    if ranks.cfg_group is not None:
        mine = torch.cat(own[BRANCHES[ranks.cfg_rank]]).contiguous()
        both = mine.new_empty(2 * mine.shape[0], *mine.shape[1:])
        with meter.lap("guidance"):
            dist.all_gather_single(both, mine, group=ranks.cfg_group)
        meter.count("guidance", mine, 1)
        return dict(zip(BRANCHES, both.chunk(2), strict=True))
    return {branch: torch.cat(samples) for branch, samples in own.items() if samples}


def combine(branches: dict[str, Tensor], guidance: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6): uncond + guidance (cond − uncond).

    Args:
        branches: the velocity of each, all of one shape; with one branch its velocity is returned.
    """
    if "uncond" not in branches:
        return branches["cond"]
    return branches["uncond"] + guidance * (branches["cond"] - branches["uncond"])


def mixing(guidance: float, num_branches: int) -> tuple[float, ...]:
    """The weights with which :func:`combine` adds the branches."""
    return (1.0,) if num_branches == 1 else (guidance, 1.0 - guidance)
