"""Attention as the transformer is trained with: plain, and over text of any padded length."""

import math
from typing import Any

import torch
from torch import Tensor

from configs.tiny_wan.recipe.text import MAX_TOKENS

NUM_TEXT_TOKENS = 16


class TrainingAttention:
    """Plain attention for training; over text it answers as if padded with zeros to a length of choice.

    The pipeline pads text embeddings with zeros and does not mask them. All padding keys are alike, so n of
    them weigh as one whose logit is raised by log n: any length costs as little as the shortest.
    """

    def __init__(self) -> None:
        self.text_bias = torch.zeros(1, 1, 1, NUM_TEXT_TOKENS)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source))
        value = attn.to_v(source)
        query, key, value = (states.unflatten(2, (attn.heads, -1)) for states in (query, key, value))
        if rotary_emb is not None:
            query, key = rotate(query, *rotary_emb), rotate(key, *rotary_emb)
        query, key, value = (states.to(value.dtype).transpose(1, 2) for states in (query, key, value))
        # Written out: the fused kernel's backward in bf16 is several times slower than this on a CPU.
        logits = (query @ key.transpose(2, 3)).float() / math.sqrt(query.shape[-1])
        if encoder_hidden_states is not None:
            logits = logits + self.text_bias
        mixed = logits.softmax(-1).to(value.dtype) @ value
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [B, S, heads, dim]; the tables repeat each value twice along dim."""
    even, odd = states.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., ::2], sin[..., ::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def padding_bias(mask: Tensor, padded_lengths: Tensor) -> Tensor:
    """Logit bias [B, 1, 1, L] that lets text of `mask` [B, L] stand for text of `padded_lengths` [B].

    The last column of `mask` is padding and answers for all of it.
    """
    num_padding = padded_lengths - mask.sum(1)
    bias = torch.zeros(mask.shape).masked_fill(mask == 0, -math.inf)
    bias[:, -1] = num_padding.clamp(min=1).log()
    return bias[:, None, None, :]


def draw_padded_lengths(num_texts: int, generator: torch.Generator) -> Tensor:
    """Half of the texts padded to the pipeline's 512, the others log-uniform from 16 up."""
    lengths = 16 * 32 ** torch.rand(num_texts, generator=generator)
    full = torch.rand(num_texts, generator=generator) < 0.5
    return torch.where(full, torch.tensor(float(MAX_TOKENS)), lengths.round())
