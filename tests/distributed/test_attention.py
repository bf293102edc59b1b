"""Attention over ranks equals attention on one, for every length; padding is neither attended nor counted."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from parallel.attention import install_sequence_attention
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.sharding import gather, plan_shards, shard
from tests.support.gang import Gang

HEADS, HEAD_DIM = 4, 8


def tensors(num_tokens: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    return [torch.randn(1, HEADS, num_tokens, HEAD_DIM, generator=generator) for _ in range(3)]


def attend(ranks: Ranks, lengths: list[int]) -> list[tuple[Tensor, dict[str, int]]]:
    transformer = WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, text_dim=8, freq_dim=8, ffn_dim=8, num_layers=1
    )
    attention = install_sequence_attention(transformer, ranks)
    outputs = []
    for num_tokens in lengths:
        shards, meter = plan_shards(num_tokens, ranks), CollectiveMeter()
        attention.begin(shards, meter)
        out = attention(*(shard(tensor, shards, dim=2) for tensor in tensors(num_tokens)))
        assert out.shape[2] == shards.length
        sent = dict(meter.sent_bytes)
        outputs.append((gather(out.transpose(1, 2).flatten(2), shards, ranks, CollectiveMeter()), sent))
    return outputs


@pytest.mark.parametrize(
    "degrees",
    [
        Degrees(ulysses=2),
        Degrees(ring=2),
        Degrees(ring=3),
        Degrees(ulysses=4),
        Degrees(ulysses=2, ring=2),
        Degrees(ring=4),
    ],
    ids=str,
)
def test_every_length_is_exact(gang: Gang, degrees: Degrees) -> None:
    lengths = [*range(degrees.sequence, 14), 80, 81, 83]
    for rank_outputs in gang.run(attend, degrees, lengths):
        for num_tokens, (out, _) in zip(lengths, rank_outputs, strict=True):
            expected = torch.nn.functional.scaled_dot_product_attention(*tensors(num_tokens))
            assert (out - expected.transpose(1, 2).flatten(2)).abs().max() < 2e-6, num_tokens


@pytest.mark.parametrize("degrees", [Degrees(ulysses=4), Degrees(ring=4), Degrees(ulysses=2, ring=2)], ids=str)
def test_bytes_are_those_of_the_theory(gang: Gang, degrees: Degrees) -> None:
    """Ulysses (Jacobs et al. 2023): q, k, v and the output each send (U-1)/U of a shard; a ring (Liu et al. 2023)
    sends k and v of its heads R-1 times."""
    tensor_bytes = 80 // degrees.sequence * HEADS * HEAD_DIM * 4
    expected = {
        "all_to_all": 4 * tensor_bytes * (degrees.ulysses - 1) // degrees.ulysses,
        "ring": 2 * tensor_bytes * (degrees.ring - 1),
    }
    for rank_outputs in gang.run(attend, degrees, [80]):
        assert rank_outputs[0][1] == expected
