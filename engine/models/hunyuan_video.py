"""HunyuanVideo in pieces, over the diffusers module (``diffusers.HunyuanVideoTransformer3DModel``).

Text-to-video and both published kinds of image-to-video, which the transformer's ``image_condition_type`` names:
"latent_concat" takes the image's latents as channels beside the noisy ones; "token_replace" takes them in place of the
first frame, with a time embedding of their own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import HunyuanVideoTransformer3DModel
from torch import Tensor

from dicache.sums import StepSignal
from engine.models.adapter import Activations
from engine.models.patches import join_patches, mark_first_frame, split_patches, token_grid
from parallel.joint import shard_text, text_lengths
from parallel.sharding import Shards, plan_text_shards, shard


@dataclass(frozen=True)
class Condition:
    """What is the same at all steps of a request, for one lane.

    prompt_embeds: [1, text tokens, text_embed_dim], padded; prompt_attention_mask: [1, text tokens], 1 is text.
    text_shards: which tokens of the text, without its padding, each rank holds.
    pooled_projections: [1, pooled_projection_dim]; guidance: [1], or None where the model has no guidance embedding.
    rotary: cos and sin of this rank's tokens, [local tokens, head_dim] each.
    image_latents: [1, channels, 1, height, width], or None for text-to-video.
    """

    prompt_embeds: Tensor
    prompt_attention_mask: Tensor
    text_shards: Shards
    pooled_projections: Tensor
    guidance: Tensor | None
    rotary: tuple[Tensor, Tensor]
    image_latents: Tensor | None


@dataclass(frozen=True)
class HunyuanVideoActivations(Activations):
    """Adds to the hidden states: text [1, local text tokens, dim], the text stream, sharded over the ranks as the video
    is; timestep_embedding [1, dim]; and where the first frame is given, given_embedding [1, dim], its time embedding,
    and given_tokens, the number of its tokens that this rank holds.
    """

    condition: Condition
    text: Tensor
    timestep_embedding: Tensor
    given_embedding: Tensor | None
    given_tokens: int


class HunyuanVideoAdapter:
    """The pieces of one loaded transformer, dual-stream blocks first; see :class:`engine.models.adapter.Adapter`.

    A prompt is encoded as ``prompt_embeds`` [1, text tokens, 4096] and ``prompt_attention_mask`` [1, text tokens] of
    Llama, ``pooled_projections`` [1, 768] of CLIP, ``guidance`` [1] (1000 times the scale that is embedded; not
    where the model is not distilled) and, for image-to-video, ``image_latents`` [1, 16, 1, height, width] of the
    first frame, scaled as the VAE's latents are.
    """

    def __init__(self, transformer: HunyuanVideoTransformer3DModel) -> None:
        self.transformer = transformer
        self._blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
        self.num_blocks = len(self._blocks)

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
        config = self.transformer.config
        cos, sin = self.transformer.rope(latents[:1])
        rotary = shard(cos, shards, dim=0), shard(sin, shards, dim=0)
        return [
            Condition(
                prompt_embeds=lane["prompt_embeds"].to(self.dtype),
                prompt_attention_mask=lane["prompt_attention_mask"],
                text_shards=plan_text_shards(int(lane["prompt_attention_mask"].sum()), shards),
                pooled_projections=lane["pooled_projections"].to(self.dtype),
                guidance=lane["guidance"].to(self.dtype) if config.guidance_embeds else None,
                rotary=rotary,
                image_latents=lane["image_latents"] if config.image_condition_type else None,
            )
            for lane in encoded
        ]

    def embed(
        self, latents: Tensor, timestep: Tensor, conditions: Sequence[Condition], shards: Shards
    ) -> list[HunyuanVideoActivations]:
        """As :meth:`Adapter.embed`: [1, local tokens, dim] of the video and [1, local text tokens, dim] of the text."""
        model, timestep = self.transformer, timestep.expand(1)
        given = 0
        if model.config.image_condition_type == "token_replace":
            first_frame = math.prod(token_grid(latents.shape, model.config)[1:])
            given = min(max(first_frame - shards.start, 0), shards.length)
        inputs = self._with_image(latents, conditions[0].image_latents).to(self.dtype)  # a sample has one image
        hidden_states = shard(model.x_embedder(inputs), shards)
        lanes = []
        for condition in conditions:
            time, given_time = model.time_text_embed(timestep, condition.pooled_projections, condition.guidance)
            text = model.context_embedder(condition.prompt_embeds, timestep, condition.prompt_attention_mask)
            text = shard_text(text, condition.text_shards)  # which leaves out the padding at its end
            lanes.append(HunyuanVideoActivations(hidden_states, condition, text, time, given_time, given))
        return lanes

    def blocks(self, activations: HunyuanVideoActivations, start: int, stop: int) -> HunyuanVideoActivations:
        """As :meth:`Adapter.blocks`: both streams, [1, local tokens, dim] and [1, local text tokens, dim]."""
        hidden_states, text, condition = activations.hidden_states, activations.text, activations.condition
        lengths = text_lengths(condition.text_shards)
        for block in self._blocks[start:stop]:
            streams = block(
                hidden_states,
                text,
                activations.timestep_embedding,
                lengths,  # no padding has to be masked; attention over ranks reads here which text each rank holds
                condition.rotary,
                activations.given_embedding,
                activations.given_tokens,
            )
            # Single-stream blocks put out parts of one tensor. As a batch of one, each has the strides of a tensor of
            # its own, so that a compiled block does not meet two layouts.
            hidden_states, text = (stream[0][None] for stream in streams)
        return replace(activations, hidden_states=hidden_states, text=text)

    def signal(self, activations: HunyuanVideoActivations, name: StepSignal) -> Tensor:
        """As :meth:`Adapter.signal`, for "modulated_input": [1, local tokens, dim]."""
        given: dict[str, Any] = {}
        if activations.given_embedding is not None:
            given["token_replace_emb"] = activations.given_embedding
            given["first_frame_num_tokens"] = activations.given_tokens
        norm = self._blocks[0].norm1
        normed: Tensor = norm(activations.hidden_states, emb=activations.timestep_embedding, **given)[0]
        return normed

    def head(self, activations: HunyuanVideoActivations) -> Tensor:
        """As :meth:`Adapter.head`: [1, local tokens, channels x patch volume], zero in a given first frame."""
        model = self.transformer
        velocity: Tensor = model.proj_out(model.norm_out(activations.hidden_states, activations.timestep_embedding))
        # so that the sampler, which steps all frames alike, leaves a given first frame unchanged
        velocity[:, : activations.given_tokens] = 0
        return velocity

    def unpatchify(self, tokens: Tensor, latents_shape: torch.Size) -> Tensor:
        """As :meth:`Adapter.unpatchify`."""
        return join_patches(tokens, latents_shape, self.transformer.config)

    def patchify(self, latents: Tensor) -> Tensor:
        """As :meth:`Adapter.patchify`."""
        return split_patches(latents, self.transformer.config)

    def finish(self, latents: Tensor, condition: Condition) -> Tensor:
        """As :meth:`Adapter.finish`: the first frame is given with "token_replace"."""
        if self.transformer.config.image_condition_type != "token_replace" or condition.image_latents is None:
            return latents
        return torch.cat([condition.image_latents.to(latents.dtype), latents[:, :, 1:]], dim=2)

    def _with_image(self, latents: Tensor, image_latents: Tensor | None) -> Tensor:
        """The transformer's input, [1, in_channels, frames, height, width]."""
        if image_latents is None:
            return latents
        image_latents = image_latents.to(latents.dtype)
        if self.transformer.config.image_condition_type == "token_replace":
            return torch.cat([image_latents, latents[:, :, 1:]], dim=2)
        return torch.cat([latents, mark_first_frame(image_latents, latents.shape[2])], dim=1)
