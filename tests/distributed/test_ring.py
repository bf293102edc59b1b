"""A ring passes keys and values from neighbour to neighbour, the next chunk while this one is attended to, and holds
two chunks whatever its degree. Exactness is shown in test_attention.py and test_joint_attention.py."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from parallel import attention as attending
from parallel.attention import install_sequence_attention
from parallel.degrees import Degrees
from parallel.fake_ranks import one_rank_of
from parallel.lengths import split_evenly
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.ring import attend_in_ring
from parallel.sharding import Shards, pad_to_longest, plan_shards, shard
from tests.support.gang import Gang
from tests.support.live_tensors import LiveTensors, fake_tensors

HEADS, HEAD_DIM = 64, 16


def exact(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    return scores.softmax(dim=-1) @ value, scores.logsumexp(dim=-1)


def pass_around(ranks: Ranks, num_tokens: int) -> tuple[list[str], list[tuple[str, int, int]], int]:
    """What one rank does in order; the kind, peer and bytes of each transfer; and what the meter counts."""
    events: list[str] = []
    transfers: list[tuple[str, int, int]] = []
    start, shards, meter = dist.batch_isend_irecv, plan_shards(num_tokens, ranks), CollectiveMeter()

    class Watched:
        def __init__(self, work: Any) -> None:
            self.work = work

        def wait(self) -> None:
            events.append("wait")
            self.work.wait()

    def watched_start(operations: list[Any]) -> list[Any]:
        events.append("start")
        for operation in operations:
            kind, size = operation.op.__name__, operation.tensor.numel() * operation.tensor.element_size()
            transfers.append((kind, operation.group_peer, size))
        return [Watched(work) for work in start(operations)]

    def kernel(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        events.append("attend")
        return exact(*inputs)

    dist.batch_isend_irecv = watched_start  # type: ignore[assignment]
    try:
        generator = torch.Generator().manual_seed(0)
        whole = [torch.randn(1, 2, num_tokens, 8, generator=generator) for _ in range(3)]
        inputs = [pad_to_longest(shard(t, shards, dim=2), shards, dim=2) for t in whole]
        degree = ranks.degrees.ring
        chunks = [(shards.lengths[(ranks.ring_rank - step) % degree],) for step in range(degree)]
        out = attend_in_ring(*inputs, kernel, chunks, ranks.ring_group, meter)
    finally:
        dist.batch_isend_irecv = start
    expected = shard(exact(*whole)[0], shards, dim=2)
    assert (out[:, :, : shards.length] - expected).abs().max() < 2e-6
    return events, transfers, inputs[1].numel() * 4


@pytest.mark.parametrize("degree", [2, 3])
def test_chunks_go_to_the_neighbour_while_the_last_one_is_attended_to(gang: Gang, degree: int) -> None:
    for rank, (events, transfers, chunk_bytes) in enumerate(gang.run(pass_around, Degrees(ring=degree), 16)):
        waits = ["wait"] * (len(events) - 1 - 2 * (degree - 1))
        per_step = ["start", "attend", *waits[: len(waits) // (degree - 1)]]
        assert events == per_step * (degree - 1) + ["attend"], "a chunk is on its way before the kernel starts"
        after, before = (rank + 1) % degree, (rank - 1) % degree
        sent = [transfer for transfer in transfers if transfer[0] == "isend"]
        assert sent == [("isend", after, chunk_bytes)] * 2 * (degree - 1), "keys and values, R-1 times"
        assert [t for t in transfers if t not in sent] == [("irecv", before, chunk_bytes)] * 2 * (degree - 1)


def fake_kernel(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """As a fused kernel: nothing but its results."""
    assert key.shape == value.shape
    return torch.empty_like(query), query.new_empty(query.shape[:3], dtype=torch.float32)


def peak_bytes(degrees: Degrees, num_tokens: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, list[int]]:
    """The most that attention holds beside its inputs and of a tensor of one shard, and the chunks' lengths."""
    lengths: list[int] = []

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        assert query.shape[1] == HEADS // degrees.ulysses
        lengths.append(key.shape[2])
        return fake_kernel(query, key, value)

    monkeypatch.setattr(attending, "kernel_over_ranks", lambda *_: kernel)
    model = WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, text_dim=8, freq_dim=8, ffn_dim=8, num_layers=1
    )
    with one_rank_of(degrees, 0, torch.device("cpu")) as ranks, fake_tensors(torch.bfloat16):
        attention = install_sequence_attention(model, ranks)
        shards = plan_shards(num_tokens, ranks)
        attention.begin(shards, CollectiveMeter())
        inputs = [torch.empty(1, HEADS, shards.length, HEAD_DIM) for _ in range(3)]
        with LiveTensors(nn.Identity()) as live:
            out = attention(*inputs)
        assert out.shape == inputs[0].shape
    return live.peak, inputs[0].numel() * 2, lengths


def test_memory_is_flat_in_the_degree_of_a_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens on each rank; torch's gathering ring would hold 2, 8, 16 and 64 times the keys and values."""
    shares = {}
    for degree in (2, 8, 16, 64):
        peak, tensor_bytes, lengths = peak_bytes(Degrees(ring=degree), 96 * degree, monkeypatch)
        assert lengths == [96] * degree
        shares[degree] = peak / tensor_bytes
    assert len(set(shares.values())) == 1, shares
    assert shares[64] < 10, "two chunks that arrive, an output, and sums in float32"


@pytest.mark.parametrize(
    "degrees",
    [
        Degrees(ulysses=8),
        Degrees(ulysses=2, ring=4),
        Degrees(ulysses=16),
        Degrees(ulysses=4, ring=4),
        Degrees(cfg=2, ulysses=4, ring=2),
        Degrees(ulysses=64),
        Degrees(ulysses=8, ring=8),
        Degrees(ring=64),
    ],
    ids=str,
)
def test_shapes_and_memory_on_many_ranks(degrees: Degrees, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a length that no degree divides: each chunk has its own number of tokens, and memory is that of the shard."""
    num_tokens = 96 * degrees.sequence + 3
    peak, tensor_bytes, lengths = peak_bytes(degrees, num_tokens, monkeypatch)
    shards = Shards(split_evenly(num_tokens, degrees.sequence))
    chunks = [sum(shards.lengths[i : i + degrees.ulysses]) for i in range(0, degrees.sequence, degrees.ulysses)]
    assert lengths == [chunks[-step % degrees.ring] for step in range(degrees.ring)]
    assert peak < 16 * tensor_bytes, "of any layout: copies of a shard for the exchanges, never of other ranks' chunks"
