"""What each family of models provides: its classes, and the functions in which families differ."""

import importlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.components.residence import Residence
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
    """Tokenizers and text encoders of a family."""

    def encode(self, request: GenerationRequest, num_branches: int, meter: CollectiveMeter) -> list[dict[str, Tensor]]:
        """The named tensors of each lane that the adapter's ``conditions`` takes, in the order of
        ``engine.denoise.guidance.all_lanes``.

        Args:
            num_branches: guidance branches, 1 or 2.
            meter: counts the bytes sent, where the weights are sharded.
        """
        ...

    def notes(self, request: GenerationRequest, num_branches: int) -> list[str]:
        """A line for each text of which not all reaches the model: cut at a limit of tokens, or not known."""
        ...


class VideoDecoder(Protocol):
    """Latents to pixels."""

    def decode(self, latents: Tensor, meter: CollectiveMeter) -> Generator[Tensor, None, None]:
        """Decode one sample; collective over the replica.

        Args:
            latents: [channels, frames, height, width], equal on every rank.
            meter: counts the bytes sent.

        Returns:
            On the replica's first rank chunks of uint8 frames [frames, height, width, 3] on the CPU. On the other
            ranks nothing is yielded: their work is done when the iterator ends.

        Raises:
            NotFiniteError: some rank has decoded to NaN or infinity; on all ranks alike.
        """
        ...

    def shares(self, latents: Tensor) -> dict[str, Any]:
        """Which ranks decode what, for the report; collective over the replica.

        Args:
            latents: as of :meth:`decode`; only their shape matters.

        Returns:
            cut: "rows" or "tiles". per_rank: rows of the latents, or tiles, of each rank of the replica.
        """
        ...


class ImageConditioner(Protocol):
    """The image encoder and VAE encoder of a family; on each rank of a replica whose model takes images."""

    def encode(self, request: GenerationRequest, meter: CollectiveMeter) -> Named:
        """The named tensors of the request's images that the adapter's ``conditions`` takes, the same for all lanes and
        on every rank; collective over the replica.

        Raises:
            RankFailure: an image cannot be read, although it could when the request was checked.
        """
        ...


@dataclass(frozen=True)
class Parts:
    """The torch side of a family.

    transformer, vae: the diffusers classes.
    encoders: the transformers classes of text and image encoders, by folder.
    adapter: called with a loaded transformer.
    prompt_encoder: called with (configuration, ranks, whether the weights are sharded over the ranks of the replica,
        where the weights are while they are not used).
    video_decoder: called with (configuration, ranks, the same).
    image_conditioner: called with (configuration, ranks, facts, the video decoder, which has the VAE, the same); None
        if no model of the family takes images.
    make_start: called with (noise of one sample [1, channels, frames, height, width], its encoded prompt and images);
        returns the latents that denoising starts from, in the same shape.
    make_scheduler: called with (the model's scheduler configuration, sampling, device); returns a sampler whose
        timesteps are set.
    """

    transformer: Any
    vae: Any
    encoders: Mapping[str, Any]
    adapter: Callable[[Any], Adapter]
    prompt_encoder: Callable[[Config, Ranks, bool, Residence], PromptEncoder]
    video_decoder: Callable[[Config, Ranks, Residence], VideoDecoder]
    image_conditioner: Callable[[Config, Ranks, ModelFacts, Any, Residence], ImageConditioner] | None
    make_scheduler: Callable[[Mapping[str, Any], SamplingConfig, torch.device], Scheduler]
    make_start: Callable[[Tensor, Named], Tensor] = lambda noise, encoded: noise

    def kind(self, component: str) -> Any:
        """The class that the component in that folder of the model is loaded as."""
        if component == "vae":
            return self.vae
        return self.encoders.get(component, self.transformer)


def parts_of(family: Family) -> Parts:
    """Import a family's classes, and no other family's."""
    parts: Parts = importlib.import_module(family.parts).PARTS
    return parts
