"""Wan 2.1 and 2.2 in pieces, over the diffusers module (``diffusers.WanTransformer3DModel``).

One adapter serves all of them. They differ only in what an image adds to a lane:

- text-to-video: nothing;
- image-to-video and first-last-frame: channels beside the latents, and with Wan 2.1 the tokens of CLIP's image
  embedding before the text tokens;
- Wan 2.2 TI2V 5B: the encoded image is the first latent frame at every step, and its tokens are at timestep 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from dicache.sums import StepSignal
from engine.models.adapter import Activations
from parallel.sharding import Shards, shard


@dataclass(frozen=True)
class Condition:
    """What is the same at all steps of a request, for one lane.

    text: [1, image tokens + text tokens, dim], projected; rotary: cos and sin of this rank's tokens,
    [1, local tokens, 1, head_dim]; latent_condition and first_frame: as in :meth:`WanAdapter.conditions`.
    """

    text: Tensor
    rotary: tuple[Tensor, Tensor]
    latent_condition: Tensor | None = None
    first_frame: Tensor | None = None


@dataclass(frozen=True)
class WanActivations(Activations):
    """Adds to the hidden states: timestep_embedding [1, dim], and modulation [1, 6, dim], the blocks' shifts, scales
    and gates. Where tokens have timesteps of their own: [1, local tokens, dim] and [1, local tokens, 6, dim].
    exact_embedding is timestep_embedding before it was rounded to the blocks' dtype."""

    condition: Condition
    timestep_embedding: Tensor
    modulation: Tensor
    exact_embedding: Tensor


class WanAdapter:
    """The pieces of one loaded Wan transformer; see :class:`engine.models.adapter.Adapter`."""

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        self.transformer = transformer
        self.num_blocks = len(transformer.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """As :attr:`Adapter.dtype`."""
        dtype: torch.dtype = self.transformer.dtype
        return dtype

    def num_tokens(self, latents_shape: torch.Size) -> int:
        """As :meth:`Adapter.num_tokens`."""
        return math.prod(self._grid(latents_shape))

    def conditions(self, encoded: Sequence[Mapping[str, Tensor]], latents: Tensor, shards: Shards) -> list[Condition]:
        """As :meth:`Adapter.conditions`, from these tensors of each lane. Lanes of one sample share all but the first:

        - ``prompt_embeds`` [1, text tokens, text_dim]; 512 text tokens if there are ``image_embeds``, because
          diffusers' attention tells image tokens from text tokens by that number;
        - ``image_embeds`` [images, 257, image_dim] (Wan 2.1 with an image): CLIP's second last hidden states, of
          the first image, or of the first and the last where the model has ``pos_embed_seq_len``;
        - ``latent_condition`` [1, 4 + channels, frames, height, width] (models with more input than output channels):
          the mask of the given frames, then the encoded video of given frames and zeros, float32;
        - ``first_frame`` [1, channels, 1, height, width] (Wan 2.2 TI2V 5B with an image): the encoded image, float32.
        """
        cos, sin = self.transformer.rope(latents[:1])
        rotary = shard(cos, shards), shard(sin, shards)
        return [
            Condition(self._project(lane), rotary, lane.get("latent_condition"), lane.get("first_frame"))
            for lane in encoded
        ]

    def _project(self, lane: Mapping[str, Tensor]) -> Tensor:
        embedder = self.transformer.condition_embedder
        text: Tensor = embedder.text_embedder(lane["prompt_embeds"].to(self.dtype))
        if "image_embeds" not in lane:
            return text
        return torch.cat([embedder.image_embedder(lane["image_embeds"].to(self.dtype)), text], dim=1)

    def embed(
        self, latents: Tensor, timestep: Tensor, conditions: Sequence[Condition], shards: Shards
    ) -> list[WanActivations]:
        """As :meth:`Adapter.embed`: latents and image channels → patch embeddings, [1, local tokens, dim]."""
        model, image = self.transformer, conditions[0]
        timesteps = self._timesteps(timestep, image, latents.shape, shards)
        latents = self.finish(latents, image)
        if image.latent_condition is not None:
            latents = torch.cat([latents, image.latent_condition], dim=1)
        hidden_states = shard(model.patch_embedding(latents.to(self.dtype)).flatten(2).transpose(1, 2), shards)
        embedder = model.condition_embedder
        frequencies = embedder.timesteps_proj(timesteps.flatten()).unflatten(0, timesteps.shape)
        time_dtype = next(iter(embedder.time_embedder.parameters())).dtype  # kept in float32 by diffusers
        exact = embedder.time_embedder(frequencies.to(time_dtype))
        timestep_embedding = exact.to(self.dtype)
        modulation = embedder.time_proj(embedder.act_fn(timestep_embedding)).unflatten(-1, (6, -1))
        return [
            WanActivations(hidden_states, condition, timestep_embedding, modulation, exact) for condition in conditions
        ]

    def _timesteps(self, timestep: Tensor, image: Condition, latents_shape: torch.Size, shards: Shards) -> Tensor:
        """[1], or [1, local tokens] where the first frame is given: its tokens hold no noise and are at timestep 0.

        Text-to-video with a model that has expand_timesteps needs one number, since all tokens are at one timestep.
        """
        if image.first_frame is None:
            return timestep.reshape(1)
        frames, height, width = self._grid(latents_shape)
        timesteps = timestep.float().repeat(1, frames * height * width)
        timesteps[:, : height * width] = 0
        return shard(timesteps, shards)

    def blocks(self, activations: WanActivations, start: int, stop: int) -> WanActivations:
        """As :meth:`Adapter.blocks`: hidden_states [1, local tokens, dim] → the same shape."""
        hidden_states, condition = activations.hidden_states, activations.condition
        for block in self.transformer.blocks[start:stop]:
            hidden_states = block(hidden_states, condition.text, activations.modulation, condition.rotary)
        return replace(activations, hidden_states=hidden_states)

    def signal(self, activations: WanActivations, name: StepSignal) -> Tensor:
        """As :meth:`Adapter.signal`, [1, 1, dim] or [1, 1, 6 x dim]; for requests with one timestep for all tokens."""
        shared = activations.exact_embedding if name == "timestep_embedding" else activations.modulation
        return shared.reshape(1, 1, -1)

    def head(self, activations: WanActivations) -> Tensor:
        """As :meth:`Adapter.head`: norm, modulation by the timestep, projection to [1, local tokens, patch volume x
        channels]."""
        model, hidden_states = self.transformer, activations.hidden_states
        shift, scale = (model.scale_shift_table + activations.timestep_embedding.unsqueeze(-2)).unbind(dim=-2)
        normed = (model.norm_out(hidden_states.float()) * (1 + scale) + shift).type_as(hidden_states)
        velocity: Tensor = model.proj_out(normed)
        return velocity

    def unpatchify(self, tokens: Tensor, latents_shape: torch.Size) -> Tensor:
        """As :meth:`Adapter.unpatchify`."""
        frames, height, width = self._grid(latents_shape)
        patches = tokens.reshape(1, frames, height, width, *self.transformer.config.patch_size, -1)
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def patchify(self, latents: Tensor) -> Tensor:
        """As :meth:`Adapter.patchify`."""
        split = latents
        for dim, size in zip((2, 4, 6), self.transformer.config.patch_size, strict=True):
            split = split.unflatten(dim, (-1, size))  # in the end channels, then grid and patch of each axis
        return split.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)

    def finish(self, latents: Tensor, condition: Condition) -> Tensor:
        """As :meth:`Adapter.finish`: the first frame is given in TI2V 5B with an image."""
        if condition.first_frame is None:
            return latents
        return torch.cat([condition.first_frame, latents[:, :, 1:]], dim=2)

    def _grid(self, latents_shape: torch.Size) -> tuple[int, int, int]:
        frames, height, width = (
            size // patch for size, patch in zip(latents_shape[-3:], self.transformer.config.patch_size, strict=True)
        )
        return frames, height, width
