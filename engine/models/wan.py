"""Wan text-to-video as plain pieces over the diffusers module (``diffusers.WanTransformer3DModel``)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from engine.models.adapter import Activations
from parallel.sharding import Shards, shard


@dataclass(frozen=True)
class Condition:
    """What a lane keeps over the steps of a request.

    text: [1, text_tokens, dim], projected; rotary: cos and sin of this rank's tokens, [1, local tokens, 1, head_dim].
    """

    text: Tensor
    rotary: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class WanActivations(Activations):
    """Beside the hidden states: timestep_embedding [1, dim], and the blocks' shifts, scales and gates [1, 6, dim]."""

    condition: Condition
    timestep_embedding: Tensor
    modulation: Tensor


class WanAdapter:
    """The pieces of one loaded transformer."""

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        self.transformer = transformer
        self.num_blocks = len(transformer.blocks)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.transformer.dtype
        return dtype

    def num_tokens(self, latents_shape: torch.Size) -> int:
        return math.prod(self._grid(latents_shape))

    def conditions(self, encoded: Sequence[Mapping[str, Tensor]], latents: Tensor, shards: Shards) -> list[Condition]:
        cos, sin = self.transformer.rope(latents[:1])
        rotary = shard(cos, shards), shard(sin, shards)
        project = self.transformer.condition_embedder.text_embedder
        return [Condition(project(lane["prompt_embeds"].to(self.dtype)), rotary) for lane in encoded]

    def embed(
        self, latents: Tensor, timestep: Tensor, conditions: Sequence[Condition], shards: Shards
    ) -> list[WanActivations]:
        model = self.transformer
        hidden_states = shard(model.patch_embedding(latents.to(self.dtype)).flatten(2).transpose(1, 2), shards)
        embedder = model.condition_embedder
        frequencies = embedder.timesteps_proj(timestep.expand(1))
        time_dtype = next(iter(embedder.time_embedder.parameters())).dtype  # kept in float32 by diffusers
        timestep_embedding = embedder.time_embedder(frequencies.to(time_dtype)).to(self.dtype)
        modulation = embedder.time_proj(embedder.act_fn(timestep_embedding)).unflatten(1, (6, -1))
        return [WanActivations(hidden_states, condition, timestep_embedding, modulation) for condition in conditions]

    def blocks(self, activations: WanActivations, start: int, stop: int) -> WanActivations:
        hidden_states, condition = activations.hidden_states, activations.condition
        for block in self.transformer.blocks[start:stop]:
            hidden_states = block(hidden_states, condition.text, activations.modulation, condition.rotary)
        return replace(activations, hidden_states=hidden_states)

    def head(self, activations: WanActivations) -> Tensor:
        model, hidden_states = self.transformer, activations.hidden_states
        shift, scale = (model.scale_shift_table + activations.timestep_embedding.unsqueeze(1)).chunk(2, dim=1)
        normed = (model.norm_out(hidden_states.float()) * (1 + scale) + shift).type_as(hidden_states)
        velocity: Tensor = model.proj_out(normed)
        return velocity

    def unpatchify(self, tokens: Tensor, latents_shape: torch.Size) -> Tensor:
        frames, height, width = self._grid(latents_shape)
        patches = tokens.reshape(1, frames, height, width, *self.transformer.config.patch_size, -1)
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def _grid(self, latents_shape: torch.Size) -> tuple[int, int, int]:
        frames, height, width = (
            size // patch for size, patch in zip(latents_shape[-3:], self.transformer.config.patch_size, strict=True)
        )
        return frames, height, width
