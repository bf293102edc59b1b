"""Whether a job fits into the memory of the cards and of the host, before anything is loaded."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace

from engine.config import Config, SamplingConfig
from engine.cost.advice import advise
from engine.cost.card import card_bytes
from engine.cost.host import choose_copies, host_bytes, refuse_copies
from engine.cost.job import Job, job_of
from engine.errors import InvalidInput, MachineUnfit
from engine.models.facts import ModelFacts
from engine.models.published import row_of
from parallel.degrees import Degrees
from parallel.place import Place


def memory_check(
    config: Config, sampling: SamplingConfig, facts: ModelFacts, place: Place
) -> Callable[[Degrees], bool]:
    """Tells whether a rank of a layout has the memory for one video, by the formula of :mod:`engine.cost.memory`.

    On the CPU all ranks of the machine share its memory. What cannot be known, a card of another machine, is taken to
    be enough. The model is looked at once, for the first layout.
    """
    job_for = functools.cache(functools.partial(_job, config, facts, sampling))

    def has_room(degrees: Degrees) -> bool:
        has_card = _has_card(config)
        job = replace(job_for(has_card), degrees=degrees)
        if has_card:
            return job.fits(card_bytes(look=False))
        if place.elsewhere:
            return True
        here = place.local_ranks or place.ranks or degrees.world_size
        return job.needed() * here <= host_bytes()

    return has_room


def check_memory(config: Config, sampling: SamplingConfig, facts: ModelFacts, degrees: Degrees, place: Place) -> None:
    """Refuse a job that does not fit on this machine's cards, or whose host copies do not fit into its memory, not even
    one for all of its ranks. A job on the CPU is not refused: there weights are mapped from their files.

    Raises:
        MachineUnfit: one sentence with the numbers and the nearest setting that fits.
    """
    if not _has_card(config):
        return
    job = replace(_job(config, facts, sampling, True), degrees=degrees)
    index = 0 if place.is_launcher else int(os.environ.get("LOCAL_RANK", "0"))
    card = card_bytes(index, look=not place.is_launcher)
    if not job.fits(card):
        raise MachineUnfit(advise(job, card))
    here = place.local_ranks if place.local_ranks is not None else degrees.world_size
    if choose_copies(job, card, here, host_bytes()) is None:
        refuse_copies(job, card, here, host_bytes())


def check_offload(config: Config, degrees: Degrees) -> None:
    """Refuse blocks in the host's memory together with weights that ranks share out.

    Raises:
        InvalidInput: one sentence that says what to do instead.
    """
    if config.runtime.offload == "blocks" and config.parallel.shard_weights and degrees.replica_size > 1:
        raise InvalidInput(
            "runtime.offload is blocks, but parallel.shard_weights is true, with which a rank holds a part of each "
            "block and gathers the rest: use one of the two."
        )


def offload_notes(config: Config) -> list[str]:
    """A line where weights are to wait in the host's memory, and the host's memory is the device's."""
    if config.runtime.offload in ("experts", "blocks") and not _has_card(config):
        return [f"runtime.offload={config.runtime.offload} has no effect on the CPU: all weights are in its memory"]
    return []


def _job(config: Config, facts: ModelFacts, sampling: SamplingConfig, on_card: bool) -> Job:
    return job_of(config, facts, Degrees(), on_card=on_card, sampling=sampling, model=row_of(config, facts))


def _has_card(config: Config) -> bool:
    if config.runtime.device == "cpu":
        return False
    import torch  # seconds: only where the layout depends on it

    return torch.cuda.is_available()
