"""Attention over tokens that are spread over the ranks, through xDiT's USP.

USP (Fang and Zhao 2024, arXiv 2405.07719) needs shards of equal length, and its kernel would attend to padding. Here
every rank holds real tokens only. They are padded for the transfer, and the padding of keys and values is removed
right before the attention kernel runs, for each chunk that a ring passes on.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import Any

import torch
from diffusers import HunyuanVideo15Transformer3DModel, HunyuanVideoTransformer3DModel, WanTransformer3DModel
from torch import Tensor, nn

from parallel import xdit
from parallel.exposed import ExposedExchange
from parallel.joint import JointAttentionProcessor
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.sharding import Shards, join_shards, pad_to_longest, strip_padding
from parallel.torch_private import cpu_flash_attention


class Kernel(Enum):
    """Keys under which attention functions are registered with xDiT."""

    EXACT = "exact for any shard lengths"


def install_sequence_attention(transformer: nn.Module, ranks: Ranks, flash: bool) -> "SequenceAttention":
    """Replace the attention processor of every block by one that runs over all sequence ranks. No weight changes.

    Args:
        transformer: a diffusers transformer of the Wan or HunyuanVideo family.
        flash: use flash-attn, which must be installed.

    Returns:
        The attention, whose :meth:`SequenceAttention.begin` has to be called for each request.

    Raises:
        TypeError: the transformer is of another family.
    """
    attention = SequenceAttention(ranks, flash)
    if isinstance(transformer, WanTransformer3DModel):
        _give_to_wan(transformer, attention)
    elif isinstance(transformer, HunyuanVideoTransformer3DModel | HunyuanVideo15Transformer3DModel):
        _give_to_hunyuan_video(transformer, attention)
    else:
        raise TypeError(f"There is no attention over ranks for {type(transformer).__name__}.")
    _make_state(transformer, ranks)
    return attention


def _give_to_wan(transformer: Any, attention: "SequenceAttention") -> None:
    """Self-attention of the video runs over ranks. Cross-attention is local, since every rank holds the whole text."""
    for block in transformer.blocks:
        processor = xdit.xFuserWanAttnProcessor(use_ulysses_parallel_attention=True)
        processor.attention_function = attention
        block.attn1.set_processor(processor)


def _give_to_hunyuan_video(transformer: Any, attention: "SequenceAttention") -> None:
    """Video and text attend jointly in every block, dual-stream or single-stream; 1.5 has no single-stream blocks."""
    for block in (*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", ())):
        block.attn.set_processor(JointAttentionProcessor(attention.attend_joint))


def _make_state(transformer: nn.Module, ranks: Ranks) -> None:
    """Set the module variables of xDiT that USP reads."""
    config = xdit.xFuserArgs(
        model="",
        data_parallel_degree=ranks.degrees.data,
        use_cfg_parallel=ranks.degrees.cfg == 2,
        ulysses_degree=ranks.degrees.ulysses,
        ring_degree=ranks.degrees.ring,
        attention_backend="sdpa_flash",  # USP asks its state for one although every call names its own
    ).create_config()[0]
    xdit.initialize_runtime_state(_PipelineShape(transformer), config)
    xdit.register_attention_function(Kernel.EXACT)(_exact_attention)


class _PipelineShape:
    """The two attributes that xDiT reads from a pipeline when its state is made."""

    vae_scale_factor = 8

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer


class SequenceAttention:
    """The attention that the blocks call; :meth:`begin` tells it each request's shards."""

    def __init__(self, ranks: Ranks, flash: bool) -> None:
        self._ranks = ranks
        self._flash = flash
        self._shards = Shards()
        self._meter = CollectiveMeter()

    def begin(self, shards: Shards, meter: CollectiveMeter) -> None:
        """Start a request: ``shards`` says which tokens each rank holds, ``meter`` counts the bytes sent."""
        self._shards, self._meter = shards, meter

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        """Attend from this rank's queries to all ranks' keys.

        Args:
            query, key, value: [1, heads, local tokens, head_dim] each, of the blocks' dtype.

        Returns:
            [1, heads, local tokens, head_dim]
        """
        return self._attend(query, key, value, self._shards)

    def attend_joint(self, query: Tensor, key: Tensor, value: Tensor, text: Shards) -> Tensor:
        """The same for a joint sequence: each rank holds its video tokens, then its text tokens.

        Args:
            text: which text tokens each rank holds.
        """
        return self._attend(query, key, value, join_shards(self._shards, text))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, shards: Shards) -> Tensor:
        query, key, value = (pad_to_longest(t, shards, dim=2) for t in (query, key, value))
        self._count(query)
        kernel = _kernel_with_log_sum_exp(query, self._flash)
        exchange: AbstractContextManager[Any] = nullcontext(kernel)
        if self._meter.is_timed:
            exchange = ExposedExchange(kernel, self._meter, self._ranks.degrees)
        with exchange as attend:
            arrivals = {"chunks": _chunk_lengths(shards, self._ranks), "kernel": attend}
            out: Tensor = xdit.USP(query, key, value, backend=Kernel.EXACT, attention_kwargs=arrivals)
        return out.narrow(2, 0, shards.length)

    def _count(self, tensor: Tensor) -> None:
        """Count bytes: query, key, value and output in the all-to-all of Ulysses, key and value in the ring."""
        degrees = self._ranks.degrees
        share = tensor.narrow(1, 0, tensor.shape[1] // degrees.ulysses)
        self._meter.count("all_to_all", share, 4 * (degrees.ulysses - 1))
        self._meter.count("ring", tensor, 2 * (degrees.ring - 1))


def _chunk_lengths(shards: Shards, ranks: Ranks) -> Iterator[tuple[int, ...]]:
    """Shard lengths inside each chunk of keys, in the order in which the chunks arrive at this rank: its own first,
    then its predecessor's. Without a ring there is one chunk."""
    ulysses, ring = ranks.degrees.ulysses, ranks.degrees.ring
    for step in range(ring):
        source = (ranks.ring_rank - step) % ring
        yield shards.lengths[source * ulysses : (source + 1) * ulysses]


def _exact_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float, is_causal: bool, attention_kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The attention function that USP calls once for each chunk: removes the padding, then runs a kernel."""
    lengths = next(attention_kwargs["chunks"])
    kernel = attention_kwargs["kernel"]
    return kernel(query, strip_padding(key, lengths, dim=2), strip_padding(value, lengths, dim=2))


def _kernel_with_log_sum_exp(query: Tensor, flash: bool) -> Any:
    """The fastest kernel for this device and dtype that also returns the log-sum-exp. A ring merges chunks with it: a
    kernel that returned none, or zeros, would give wrong results without an error."""
    if query.device.type == "cpu":
        return cpu_flash_attention()
    kinds = xdit.AttentionBackendType
    if query.dtype == torch.float32:
        return _registered(kinds.SDPA_EFFICIENT)
    if flash:
        return _registered(kinds.FLASH_3 if xdit.PACKAGES_CHECKER.packages_info["has_flash_attn_3"] else kinds.FLASH)
    return _registered(kinds.SDPA_FLASH)


def _registered(kind: "xdit.AttentionBackendType") -> Any:
    function = xdit.ATTENTION_FUNCTION_REGISTRY[kind]

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        out, log_sum_exp = function(query, key, value, dropout_p=0.0, is_causal=False)
        # the memory-efficient kernel rounds the length up to a multiple of 32
        return out, log_sum_exp.narrow(-1, 0, query.shape[2])

    return kernel
