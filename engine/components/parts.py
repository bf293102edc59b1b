"""What a family of models brings along to be run: its classes, and what it does in its own way."""

import importlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.components.samplers import Scheduler
from engine.config import Config, SamplingConfig
from engine.models.adapter import Adapter
from engine.models.facts import ModelFacts
from engine.models.families import Family
from engine.request import GenerationRequest
from parallel.broadcast import Named
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks


class PromptEncoder(Protocol):
    """Tokenizers and text encoders."""

    def encode(self, request: GenerationRequest, num_branches: int, meter: CollectiveMeter) -> list[dict[str, Tensor]]:
        """The named tensors that the adapter's ``conditions`` wants of each lane, in the order of
        ``engine.denoise.guidance.all_lanes``."""
        ...


class VideoDecoder(Protocol):
    """Latents to pixels."""

    def decode(self, latents: Tensor, meter: CollectiveMeter) -> Generator[Tensor, None, None]:
        """Decode one sample, [channels, frames, height, width], equal on every rank; all ranks of a replica call it.

        Returns:
            On the replica's first rank chunks of uint8 frames [frames, height, width, 3] on the CPU. On the other
            ranks nothing is ever yielded: their work is done when the iterator ends.
        """
        ...


class ImageConditioner(Protocol):
    """What looks at images; on each rank of a replica whose model takes them."""

    def encode(self, request: GenerationRequest, meter: CollectiveMeter) -> Named:
        """The named tensors that the adapter's ``conditions`` wants of the request's images, which all lanes share;
        collective over the replica, and equal on every rank.

        Raises:
            RankFailure: an image that was there when the request was checked cannot be read any more.
        """
        ...


@dataclass(frozen=True)
class Parts:
    """The torch side of a family.

    transformer: the diffusers class. adapter: makes its pieces from a loaded one.
    prompt_encoder: of (configuration, ranks, whether the weights are shared out over the ranks of the replica).
    video_decoder: of (configuration, ranks).
    image_conditioner: of (configuration, ranks, facts, the video decoder, which has the VAE); None where no model of
        the family takes images.
    make_start: of (noise of one sample [1, channels, frames, height, width], its encoded prompt and images); the
        latents that denoising starts from.
    vae: the diffusers class, where the family's ``single_files`` has one.
    make_scheduler: of (the checkpoint's scheduler configuration, how to sample, device); its timesteps are set.
    """

    transformer: Any
    adapter: Callable[[Any], Adapter]
    prompt_encoder: Callable[[Config, Ranks, bool], PromptEncoder]
    video_decoder: Callable[[Config, Ranks], VideoDecoder]
    image_conditioner: Callable[[Config, Ranks, ModelFacts, Any], ImageConditioner] | None
    make_scheduler: Callable[[dict[str, Any], SamplingConfig, torch.device], Scheduler]
    make_start: Callable[[Tensor, Named], Tensor] = lambda noise, encoded: noise
    vae: Any = None


def parts_of(family: Family) -> Parts:
    """Import a family's classes, and no other family's."""
    parts: Parts = importlib.import_module(family.parts).PARTS
    return parts
