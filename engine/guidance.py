"""Guidance branches: which there are, who computes them, and how they are combined."""

import torch
import torch.distributed as dist
from torch import Tensor

from dicache.controller import Lane
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks

BRANCHES = ("cond", "uncond")


def all_lanes(num_samples: int, num_branches: int) -> tuple[Lane, ...]:
    """Every sample's branches, in the order in which all ranks list them.

    Args:
        num_branches: ``ModelFacts.num_branches`` of the request's guidance, 1 or 2.
    """
    return tuple(Lane(sample, branch) for sample in range(num_samples) for branch in BRANCHES[:num_branches])


def own_lanes(lanes: tuple[Lane, ...], ranks: Ranks) -> tuple[Lane, ...]:
    """The lanes that this rank computes: all, or one branch where cfg-parallel splits them."""
    if ranks.cfg_group is None:
        return lanes
    return tuple(lane for lane in lanes if lane.branch == BRANCHES[ranks.cfg_rank])


def combine(velocities: dict[Lane, Tensor], guidance: float, ranks: Ranks, meter: CollectiveMeter) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6): uncond + guidance (cond − uncond).

    Args:
        velocities: [1, channels, frames, height, width] for each lane of this rank.

    Returns:
        The guided velocity of all samples, [samples, channels, frames, height, width], on every rank.
    """
    own = {branch: [v for lane, v in velocities.items() if lane.branch == branch] for branch in BRANCHES}
    if ranks.cfg_group is not None:
        mine = torch.cat(own[BRANCHES[ranks.cfg_rank]]).contiguous()
        both = mine.new_empty(2 * mine.shape[0], *mine.shape[1:])
        dist.all_gather_single(both, mine, group=ranks.cfg_group)
        meter.count("guidance", mine, 1)
        cond, uncond = both.chunk(2)
    else:
        cond = torch.cat(own["cond"])
        if not own["uncond"]:
            return cond
        uncond = torch.cat(own["uncond"])
    return uncond + guidance * (cond - uncond)
