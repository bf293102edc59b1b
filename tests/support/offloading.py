"""A model whose weights have to come from another memory, as on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from diffusers import WanPipeline

from engine.cost.job import Job
from engine.execution import homes, loaded
from tests.support.movers import CountingMover
from tests.support.small_model import CONFIG


def write_two_experts(folder: Path) -> Path:
    """The small model twice, the second one a little off."""
    pipeline = WanPipeline.from_pretrained(CONFIG.parent / "tiny_wan")
    second = WanPipeline.from_pretrained(CONFIG.parent / "tiny_wan").transformer.requires_grad_(False)
    for parameter in second.parameters():
        parameter.mul_(1.05)
    parts = {name: getattr(pipeline, name) for name in ("tokenizer", "text_encoder", "vae", "scheduler", "transformer")}
    WanPipeline(**parts, transformer_2=second, boundary_ratio=0.875).save_pretrained(folder)
    return folder


@contextmanager
def other_memory(stays: bool = False) -> Iterator[CountingMover]:
    """Weights have to come from the host's memory, as on a GPU.

    Args:
        stays: the device has room for encoders and VAE between requests.
    """
    mover = CountingMover()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded, "mover_for", lambda device: mover)
        patch.setattr(loaded, "card_bytes", lambda index: 24e9)
        patch.setattr(homes, "card_bytes", lambda index: 24e9)
        patch.setattr(homes, "host_bytes", lambda: 1e12)
        patch.setattr(Job, "others_stay", lambda self, card: stays)
        yield mover
