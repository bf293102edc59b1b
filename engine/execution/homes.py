"""Where the weights of this rank wait while they are not used; chosen once, before any is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch.distributed as dist

from engine.components.host_copies import Mover
from engine.components.node_copies import NodeCopies
from engine.config import Config
from engine.cost.card import card_bytes
from engine.cost.host import choose_copies, copied_bytes, host_bytes, refuse_copies
from engine.cost.job import Job, job_of
from engine.execution.residency import StreamedBlocks, WholeTurns
from engine.models.facts import ModelFacts
from engine.progress import Progress
from parallel.node import first_ranks_group, node_group, values_of
from parallel.ranks import Ranks
from parallel.shared_memory import can_share


@dataclass(frozen=True)
class Homes:
    """Of one rank, while it loads.

    group: all ranks of this machine; None where it is alone, or nothing comes from the host's memory.
    keep: how transformers wait in the host's memory; None if all of them stay on the device.
    copies: of transformers, which the ranks of the machine share; None if each has its own.
    encoder_copies: the same of encoders, for the first ranks of replicas.
    """

    group: dist.ProcessGroup | None = None
    keep: type[WholeTurns] | type[StreamedBlocks] | None = None
    copies: NodeCopies | None = None
    encoder_copies: NodeCopies | None = None


@contextmanager
def homes_of(
    config: Config, ranks: Ranks, facts: ModelFacts, mover: Mover | None, progress: Progress
) -> Iterator[Homes]:
    """Inside, the weights may be loaded to their homes. The same on all ranks of the machine, by its smallest card,
    since they load together. Collective over them.

    Args:
        mover: brings weights from the host's memory; None where the host's memory is the device's.

    Raises:
        MachineUnfit: the copies do not fit into the host's memory.
    """
    if mover is None:
        yield Homes()
        return
    with node_group(ranks) as group, first_ranks_group(ranks) as firsts:
        job = job_of(config, facts, ranks.degrees, on_card=True)
        seen = values_of((card_bytes(ranks.device.index or 0), host_bytes()), group)
        card, host = (min(values) for values in zip(*seen, strict=True))
        keep = None if job.is_sharded else _way_to_wait(job, card, len(facts.transformers))
        if group is None or not _share(job, card, host, group, progress):
            yield Homes(group, keep)
        else:
            yield Homes(group, keep, NodeCopies(group), None if firsts is None else NodeCopies(firsts))


def _way_to_wait(job: Job, card: float, transformers: int) -> type[WholeTurns] | type[StreamedBlocks] | None:
    settled = job.settled(card)
    if settled == "blocks":
        return StreamedBlocks
    return WholeTurns if settled == "experts" and transformers > 1 else None


def _share(job: Job, card: float, host: float, group: dist.ProcessGroup, progress: Progress) -> bool:
    """Whether the ranks of the machine share their copies."""
    ranks = dist.get_world_size(group)
    copies = choose_copies(job, card, ranks, host)
    if copies is None or (copies == "shared" and not can_share(group)):
        refuse_copies(job, card, ranks, host, can_share=copies is None)
    if copies == "own":
        return False
    held = copied_bytes(job, card, ranks, "shared")
    progress.note(f"the {ranks} ranks of a machine share one copy of {held / 1e9:.0f} GB of weights in its memory")
    return True
