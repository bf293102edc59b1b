"""Arithmetic whose results for a token do not depend on how many tokens a rank holds (``runtime.deterministic``).

Libraries of matrix products choose a kernel by the number of rows, and kernels add in different orders. In bfloat16
that changes some numbers by a whole rounding step. So ranks that share a video out otherwise get other sums, and a
decision near its threshold turns out otherwise. Here linear layers run on equally many rows in each call, whatever the
layout, and attention sees all keys in the order of the sequence. (He et al. 2025, "Defeating Nondeterminism in LLM
Inference", Thinking Machines Lab: batch-invariant kernels.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.ring import Kernel
from parallel.sharding import Shards, join_shards

ROWS = {"cuda": 1024, "cpu": 128}
"""Of one call, by type of device. On a card fewer would leave multiprocessors idle; more would be padding."""


class FixedRows(TorchFunctionMode):
    """Linear layers and, on the CPU, attention run on as many rows in each call inside. The last call is padded.

    torch's kernel for attention on the CPU chooses its tiles by the number of queries. FlashAttention on a card has
    tiles of one size, and splits the keys up where there are few queries: there calls stay as they are.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._rows = ROWS[device.type]
        self._splits_attention = device.type == "cpu"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and args[0].dim() > 2:
            tokens, *weights = args
            flat = tokens.flatten(0, -2)
            out = in_equal_calls(lambda rows: func(rows, *weights, **kwargs), flat, self._rows, dim=0)
            return out.unflatten(0, tokens.shape[:-1])
        if func is F.scaled_dot_product_attention and self._splits_attention:
            query = kwargs.pop("query", args[0] if args else None)
            if kwargs.get("attn_mask") is not None or len(args) > 3:
                return func(query, *args[1:], **kwargs)  # of text, which all ranks hold whole
            return in_equal_calls(lambda rows: func(rows, *args[1:], **kwargs), query, self._rows, dim=2)
        return func(*args, **kwargs)


def in_equal_calls(function: Callable[[Tensor], Tensor], tensor: Tensor, rows: int, dim: int) -> Tensor:
    """``function`` of a tensor that it treats row by row along ``dim``, called on ``rows`` of them at a time; the last
    call is filled up with zeros."""
    parts = []
    for part in tensor.split(rows, dim=dim):
        missing = rows - part.shape[dim]
        if missing:
            filler = list(part.shape)
            filler[dim] = missing
            part = torch.cat([part, part.new_zeros(filler)], dim=dim)
        out = function(part)
        parts.append(out.narrow(dim, 0, rows - missing) if missing else out)
    return torch.cat(parts, dim=dim)


def attend_in_order(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel: Kernel,
    streams: Sequence[Shards],
    ranks: Ranks,
    meter: CollectiveMeter,
) -> Tensor:
    """Attend from this rank's queries to all keys, in the order that they have on one rank: the first stream's tokens,
    then the second's. A ring's keys and values are gathered, since sums over its chunks depend on where they are cut.

    Args:
        query, key, value: [1, heads, tokens, head_dim] each, of one rank of a ring: the shards of its Ulysses group,
            each padded to the longest.
        streams: the tokens that each rank holds: of the video and, where it attends jointly, of the text after it.

    Returns:
        [1, heads, tokens, head_dim]
    """
    longest = functools.reduce(join_shards, streams).longest
    with meter.lap("ring") if ranks.ring_group is not None else nullcontext():
        key, value = (_in_order(_gather_ring(t, ranks), streams, longest) for t in (key, value))

    def attend(rows: Tensor) -> Tensor:
        return kernel(rows, key, value)[0]

    if query.device.type != "cpu":  # see FixedRows
        return attend(query)
    return in_equal_calls(attend, query, ROWS["cpu"], dim=2)


def _gather_ring(tensor: Tensor, ranks: Ranks) -> Tensor:
    """The chunks of all ranks of the ring, one after the other along the tokens."""
    if ranks.ring_group is None:
        return tensor
    everyone = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(ranks.degrees.ring)]
    dist.all_gather(everyone, tensor.contiguous(), group=ranks.ring_group)
    return torch.cat(everyone, dim=2)


def _in_order(tensor: Tensor, streams: Sequence[Shards], longest: int) -> Tensor:
    """Shards of several streams, each rank's together and padded, as one sequence: one stream after the other."""
    pieces, before = [], [0] * len(streams[0].lengths)
    for stream in streams:
        for rank, length in enumerate(stream.lengths):
            pieces.append(tensor.narrow(2, rank * longest + before[rank], length))
            before[rank] += length
    return torch.cat(pieces, dim=2)


def complaint_about_places(transformer: nn.Module) -> str | None:
    """Why a token's numbers depend on its place among the rows of a call, as a sentence fragment; None if they do not.

    A product whose tiles of rows are added up in different ways ("stream-K") would: then nothing is deterministic over
    layouts. Each size of a linear layer is tried once, with its own weights.
    """
    generator = torch.Generator().manual_seed(0)
    tried = set()
    for layer in transformer.modules():
        if not isinstance(layer, nn.Linear) or (size := (layer.out_features, layer.in_features)) in tried:
            continue
        tried.add(size)
        rows = ROWS[layer.weight.device.type]
        # of GGUF files the weight is bytes, and the layer says in which dtype it multiplies
        dtype = getattr(layer, "compute_dtype", layer.weight.dtype)
        tokens = torch.randn(rows, size[1], generator=generator).to(layer.weight.device, dtype)
        shift = rows // 3 + 1
        with torch.no_grad():
            moved, expected = layer(tokens.roll(shift, dims=0)), layer(tokens).roll(shift, dims=0)
        if not torch.equal(moved, expected):
            return f"the product of {rows} rows with a matrix of {size[1]} x {size[0]} depends on the place of a row"
    return None
