"""What is said where a card runs out of memory after all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from engine.cost.advice import what_fits
from engine.cost.card import card_bytes
from engine.cost.job import Job
from engine.errors import OutOfMemory

_CLEARLY_LESS = 0.85  # of what was estimated and was not enough


@contextmanager
def naming_stage(stage: str, job: Callable[[], Job], device: torch.device) -> Iterator[None]:
    """Inside, an error about a card's memory becomes one sentence: the stage, the numbers, and the nearest setting that
    needs less.

    Args:
        stage: "encode", "load", "denoise" or "decode".
        job: what the memory was estimated for; asked only in case.

    Raises:
        OutOfMemory: the card has no memory left.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        wanted = job()
        card = card_bytes(device.index or 0) if device.type == "cuda" else 0.0
        needed = wanted.needed()
        raise OutOfMemory(
            f"The card has no memory left in {stage}, where {wanted.model.name} was estimated to need "
            f"{needed / 1e9:.1f} of {card / 1e9:.1f} GB: {what_fits(wanted, card, _CLEARLY_LESS * needed)}."
        ) from error
