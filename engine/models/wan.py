"""Wan text-to-video as three plain pieces over the diffusers module: embed, blocks, head.

The pieces together are the forward pass of ``diffusers.WanTransformer3DModel``; nothing of the module is
changed. What does not depend on the timestep (text projection, rotary table) is made once a request.
"""

import math
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor


@dataclass(frozen=True)
class Embedded:
    """One sample entering the blocks at one timestep.

    hidden_states: [1, tokens, dim]; rotary: cos and sin, [1, tokens, 1, head_dim] each;
    timestep_embedding: [1, dim]; modulation: [1, 6, dim], the blocks' shifts, scales and gates.
    """

    hidden_states: Tensor
    rotary: tuple[Tensor, Tensor]
    timestep_embedding: Tensor
    modulation: Tensor


class WanAdapter:
    """The pieces of one loaded transformer."""

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        self.transformer = transformer
        self.num_blocks = len(transformer.blocks)
        self.dtype = transformer.dtype
        self.text_dim: int = transformer.config.text_dim

    def num_tokens(self, latents_shape: torch.Size) -> int:
        """Tokens of latents shaped [..., channels, frames, height, width]."""
        return math.prod(self._grid(latents_shape))

    def project_text(self, prompt_embeds: Tensor) -> Tensor:
        """Text as the cross-attention takes it: [1, text_tokens, text_dim] → [1, text_tokens, dim]."""
        projected: Tensor = self.transformer.condition_embedder.text_embedder(prompt_embeds.to(self.dtype))
        return projected

    def rotary(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Cos and sin of the rotary embedding for latents [1, channels, frames, height, width]."""
        cos, sin = self.transformer.rope(latents)
        return cos, sin

    def embed(self, latents: Tensor, timestep: Tensor, rotary: tuple[Tensor, Tensor]) -> Embedded:
        """Latents [1, channels, frames, height, width] at a timestep (scalar tensor, 0 to 1000)."""
        model = self.transformer
        hidden_states = model.patch_embedding(latents.to(self.dtype)).flatten(2).transpose(1, 2).contiguous()
        embedder = model.condition_embedder
        frequencies = embedder.timesteps_proj(timestep.expand(1))
        time_dtype = next(iter(embedder.time_embedder.parameters())).dtype  # kept in float32 by diffusers
        timestep_embedding = embedder.time_embedder(frequencies.to(time_dtype)).to(self.dtype)
        modulation = embedder.time_proj(embedder.act_fn(timestep_embedding)).unflatten(1, (6, -1))
        return Embedded(hidden_states, rotary, timestep_embedding, modulation)

    def blocks(self, hidden_states: Tensor, embedded: Embedded, text: Tensor, start: int, stop: int) -> Tensor:
        """Run blocks ``start`` to ``stop - 1`` on [1, tokens, dim]."""
        for block in self.transformer.blocks[start:stop]:
            hidden_states = block(hidden_states, text, embedded.modulation, embedded.rotary)
        return hidden_states

    def head(self, hidden_states: Tensor, embedded: Embedded) -> Tensor:
        """Velocity of each token: [1, tokens, dim] → [1, tokens, patch volume x channels]."""
        model = self.transformer
        shift, scale = (model.scale_shift_table + embedded.timestep_embedding.unsqueeze(1)).chunk(2, dim=1)
        normed = (model.norm_out(hidden_states.float()) * (1 + scale) + shift).type_as(hidden_states)
        velocity: Tensor = model.proj_out(normed)
        return velocity

    def unpatchify(self, tokens: Tensor, latents_shape: torch.Size) -> Tensor:
        """Lay tokens [1, tokens, patch volume x channels] out as latents [1, channels, frames, height, width]."""
        frames, height, width = self._grid(latents_shape)
        patches = tokens.reshape(1, frames, height, width, *self.transformer.config.patch_size, -1)
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def _grid(self, latents_shape: torch.Size) -> tuple[int, int, int]:
        frames, height, width = (
            size // patch for size, patch in zip(latents_shape[-3:], self.transformer.config.patch_size, strict=True)
        )
        return frames, height, width
