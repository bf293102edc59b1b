"""Joint attention of video and text in the HunyuanVideo models, for text without padding.

Attention sees both streams as one sequence, and both are sharded over the ranks. A text that every rank held whole
would be computed once for each rank, and the copies would drift apart: the last bits of a kernel's result depend on
the number of video tokens beside the text.
"""

from typing import Any, Protocol

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from parallel.diffusers_private import copy_attention_backend
from parallel.sharding import Shards, shard


class Attend(Protocol):
    """Attention of this rank's queries to the joint sequence's keys on all ranks."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, text_lengths: Tensor) -> Tensor:
        """
        Args:
            query, key, value: [1, heads, local video tokens + local text rows, head_dim] each.
            text_lengths: as of :func:`text_lengths`.

        Returns:
            [1, heads, local video tokens + local text rows, head_dim]; zeros in a row that is no text.
        """
        ...


def shard_text(text: Tensor, shards: Shards) -> Tensor:
    """This rank's part of the text: [1, tokens, dim] → [1, max(1, length), dim].

    A rank without text gets one row of zeros: diffusers' single-stream blocks separate the text by a negative index,
    which for a text of no rows would drop the video. Attention over ranks leaves that row out.
    """
    rows = shard(text, shards)
    # a tensor of its own: for a view that begins inside its storage a compiled block would be compiled once more
    return rows.clone() if shards.length else text.new_zeros(text.shape[0], 1, text.shape[2])


def text_lengths(shards: Shards) -> Tensor | None:
    """How many text tokens each rank holds, int64 [ranks] on the CPU, which blocks take in the place of a mask; None
    where one rank holds the sequence.

    A tensor, for a compiled block takes it as it comes: numbers would be compiled in, and other texts compile anew.
    """
    return torch.tensor(shards.lengths, device="cpu") if len(shards.lengths) > 1 else None


def drop_masks(transformer: nn.Module) -> None:
    """Let a HunyuanVideo 1.5 transformer whose sequence is whole on this rank attend without a mask.

    diffusers' processor builds a mask of all tokens by all tokens several times in each block, 12 GB for a 720p video
    of 121 frames. Text without padding needs none.
    """
    for block in transformer.transformer_blocks:  # type: ignore[union-attr]
        processor = JointAttentionProcessor()
        copy_attention_backend(block.attn.processor, processor)
        block.attn.set_processor(processor)


class JointAttentionProcessor:
    """Takes the place of diffusers' ``HunyuanVideoAttnProcessor2_0`` and ``HunyuanVideo15AttnProcessor2_0``."""

    _attention_backend: Any = None
    """Set by :func:`parallel.diffusers_private.set_attention_kernel`."""

    def __init__(self, attend: Attend | None = None) -> None:
        """
        Args:
            attend: attention over several ranks; None where one rank holds both streams.
        """
        self._attend = attend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The attention output of both streams, projected.

        Args:
            attn: diffusers' attention module, for its weights.
            hidden_states: [1, local video tokens, dim].
            encoder_hidden_states: [1, local text tokens, dim], as :func:`shard_text` cuts them.
            attention_mask: no mask, but :func:`text_lengths`. diffusers' blocks pass this argument on without reading
                it. Ignored on one rank.
            image_rotary_emb: cos and sin of the local video tokens, [local video tokens, head_dim] each.
        """
        own = (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k)
        added = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj), (attn.norm_added_q, attn.norm_added_k)
        single_stream = attn.add_q_proj is None  # one set of weights for both streams
        video = _project(hidden_states, attn.heads, *own)
        text = _project(encoder_hidden_states, attn.heads, *(own if single_stream else added))
        if image_rotary_emb is not None:
            query, key = (apply_rotary_emb(t, image_rotary_emb, sequence_dim=1) for t in video[:2])
            video = query, key, video[2]
        query, key, value = (torch.cat([v, t], dim=1) for v, t in zip(video, text, strict=True))
        if self._attend is None:
            out = dispatch_attention_fn(query, key, value, backend=self._attention_backend)
        else:
            assert attention_mask is not None
            query, key, value = (t.transpose(1, 2) for t in (query, key, value))
            out = self._attend(query, key, value, attention_mask).transpose(1, 2)
        out = out.flatten(2).to(hidden_states.dtype)
        video_out, text_out = out.split([hidden_states.shape[1], encoder_hidden_states.shape[1]], dim=1)
        if not single_stream:  # a single-stream block projects later, together with its feed-forward
            video_out, text_out = attn.to_out[1](attn.to_out[0](video_out)), attn.to_add_out(text_out)
        return video_out, text_out


def _project(
    tokens: Tensor, heads: int, projections: tuple[nn.Module, ...], norms: tuple[nn.Module | None, nn.Module | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, [1, tokens, heads, head_dim] each; query and key normalised."""
    query, key, value = (project(tokens).unflatten(2, (heads, -1)) for project in projections)
    norm_query, norm_key = norms
    return norm_query(query) if norm_query else query, norm_key(key) if norm_key else key, value
