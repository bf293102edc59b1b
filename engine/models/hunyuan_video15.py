"""HunyuanVideo 1.5 in pieces, over the diffusers module (``diffusers.HunyuanVideo15Transformer3DModel``)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import HunyuanVideo15Transformer3DModel
from torch import Tensor

from dicache.sums import StepSignal
from engine.models.adapter import Activations
from engine.models.patches import join_patches, mark_first_frame, split_patches, token_grid
from parallel.joint import shard_text, text_lengths
from parallel.sharding import Shards, plan_text_shards, shard

PROMPT, GLYPHS, IMAGE = range(3)
"""Rows of the transformer's embedding table of condition types."""


@dataclass(frozen=True)
class Condition:
    """What is the same at all steps of a request, for one lane.

    prompt_embeds: [1, prompt tokens, text_embed_dim], without padding; it is projected at each step.
    image_and_glyphs: [1, image tokens + glyph tokens, dim], projected, without padding; they precede the prompt.
    text_shards: which of all these tokens each rank holds.
    rotary: cos and sin of this rank's tokens, [local tokens, head_dim] each.
    beside: [1, channels + 1, frames, height, width], the channels beside the noisy latents: the first frame's latents
    and the mask that marks it, or zeros.
    """

    prompt_embeds: Tensor
    image_and_glyphs: Tensor
    text_shards: Shards
    rotary: tuple[Tensor, Tensor]
    beside: Tensor


@dataclass(frozen=True)
class HunyuanVideo15Activations(Activations):
    """Adds to the hidden states: text [1, local text tokens, dim], the text stream, sharded over the ranks as the video
    is, and timestep_embedding [1, dim]."""

    condition: Condition
    text: Tensor
    timestep_embedding: Tensor


class HunyuanVideo15Adapter:
    """The pieces of one loaded transformer; see :class:`engine.models.adapter.Adapter`.

    A prompt is encoded as ``prompt_embeds`` [1, prompt tokens, 3584] and ``prompt_embeds_mask`` [1, prompt tokens] of
    Qwen2.5-VL, ``prompt_embeds_2`` [1, glyph tokens, 1472] and ``prompt_embeds_mask_2`` [1, glyph tokens] of ByT5
    (the texts in quotation marks), and, for image-to-video alone, ``image_embeds`` [1, image tokens, 1152] of SigLIP
    and ``image_latents`` [1, 32, 1, height, width] of the first frame, scaled as the VAE's latents are.
    """

    def __init__(self, transformer: HunyuanVideo15Transformer3DModel) -> None:
        self.transformer = transformer
        self.num_blocks = len(transformer.transformer_blocks)

    @property
    def dtype(self) -> torch.dtype:
        """As :attr:`Adapter.dtype`."""
        dtype: torch.dtype = self.transformer.dtype
        return dtype

    def num_tokens(self, latents_shape: torch.Size) -> int:
        """As :meth:`Adapter.num_tokens`."""
        return math.prod(token_grid(latents_shape, self.transformer.config))

    def conditions(self, encoded: Sequence[Mapping[str, Tensor]], latents: Tensor, shards: Shards) -> list[Condition]:
        """As :meth:`Adapter.conditions`, from the tensors named above."""
        cos, sin = self.transformer.rope(latents[:1])
        rotary = shard(cos, shards, dim=0), shard(sin, shards, dim=0)
        return [self._condition(lane, latents[:1], rotary, shards) for lane in encoded]

    def embed(
        self, latents: Tensor, timestep: Tensor, conditions: Sequence[Condition], shards: Shards
    ) -> list[HunyuanVideo15Activations]:
        """As :meth:`Adapter.embed`: [1, local tokens, dim] of the video and [1, local text tokens, dim] of the text."""
        model, timestep = self.transformer, timestep.expand(1)
        inputs = torch.cat([latents, conditions[0].beside.to(latents.dtype)], dim=1)  # a sample has one image
        hidden_states = shard(model.x_embedder(inputs.to(self.dtype)), shards)
        # model.time_embed would round the timestep to the blocks' dtype; bfloat16 has steps of 4 between 512 and 1000
        frequencies = model.time_embed.time_proj(timestep)
        timestep_embedding = model.time_embed.timestep_embedder(frequencies.to(self.dtype))
        lanes = []
        for condition in conditions:
            all_valid = torch.ones_like(condition.prompt_embeds[..., 0])
            prompt = self._typed(model.context_embedder(condition.prompt_embeds, timestep, all_valid), PROMPT)
            text = shard_text(torch.cat([condition.image_and_glyphs, prompt], dim=1), condition.text_shards)
            lanes.append(HunyuanVideo15Activations(hidden_states, condition, text, timestep_embedding))
        return lanes

    def blocks(self, activations: HunyuanVideo15Activations, start: int, stop: int) -> HunyuanVideo15Activations:
        """As :meth:`Adapter.blocks`: both streams, [1, local tokens, dim] and [1, local text tokens, dim]."""
        hidden_states, text, condition = activations.hidden_states, activations.text, activations.condition
        # no padding has to be masked: diffusers' own processor needs a mask all the same, and attention over ranks
        # reads in its place which text tokens each rank holds
        lengths = text_lengths(condition.text_shards)
        mask = torch.ones_like(text[..., 0], dtype=torch.bool) if lengths is None else lengths
        for block in self.transformer.transformer_blocks[start:stop]:
            hidden_states, text = block(hidden_states, text, activations.timestep_embedding, mask, condition.rotary)
        return replace(activations, hidden_states=hidden_states, text=text)

    def signal(self, activations: HunyuanVideo15Activations, name: StepSignal) -> Tensor:
        """As :meth:`Adapter.signal`, for "modulated_input": [1, local tokens, dim]."""
        normed: Tensor = self.transformer.transformer_blocks[0].norm1(
            activations.hidden_states, emb=activations.timestep_embedding
        )[0]
        return normed

    def head(self, activations: HunyuanVideo15Activations) -> Tensor:
        """As :meth:`Adapter.head`: [1, local tokens, channels x patch volume]."""
        model = self.transformer
        velocity: Tensor = model.proj_out(model.norm_out(activations.hidden_states, activations.timestep_embedding))
        return velocity

    def unpatchify(self, tokens: Tensor, latents_shape: torch.Size) -> Tensor:
        """As :meth:`Adapter.unpatchify`."""
        return join_patches(tokens, latents_shape, self.transformer.config)

    def finish(self, latents: Tensor, condition: Condition) -> Tensor:
        """The latents unchanged: every frame is denoised, and the image is in the channels beside the first."""
        return latents

    def patchify(self, latents: Tensor) -> Tensor:
        """As :meth:`Adapter.patchify`."""
        return split_patches(latents, self.transformer.config)

    def _condition(
        self, lane: Mapping[str, Tensor], latents: Tensor, rotary: tuple[Tensor, Tensor], shards: Shards
    ) -> Condition:
        model = self.transformer
        prompt = _without_padding(lane["prompt_embeds"], lane["prompt_embeds_mask"]).to(self.dtype)
        glyphs = _without_padding(lane["prompt_embeds_2"], lane["prompt_embeds_mask_2"]).to(self.dtype)
        projected = [self._typed(model.context_embedder_2(glyphs), GLYPHS)]
        beside = torch.zeros_like(latents[:, :1]).expand(-1, latents.shape[1] + 1, -1, -1, -1)
        if "image_embeds" in lane:
            projected.insert(0, self._typed(model.image_embedder(lane["image_embeds"].to(self.dtype)), IMAGE))
            beside = mark_first_frame(lane["image_latents"], latents.shape[2])
        image_and_glyphs = torch.cat(projected, dim=1)
        text_shards = plan_text_shards(image_and_glyphs.shape[1] + prompt.shape[1], shards)
        return Condition(prompt, image_and_glyphs, text_shards, rotary, beside)

    def _typed(self, tokens: Tensor, kind: int) -> Tensor:
        """Add the embedding of a condition type (PROMPT, GLYPHS or IMAGE) to tokens [1, tokens, dim]."""
        typed: Tensor = tokens + self.transformer.cond_type_embed(torch.tensor([kind], device=tokens.device))
        return typed


def _without_padding(embeds: Tensor, mask: Tensor) -> Tensor:
    """[1, tokens, dim] → [1, valid tokens, dim]; the padding may be on either side."""
    return embeds[:, mask[0].bool()]
