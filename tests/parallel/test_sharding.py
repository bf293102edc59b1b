import pytest
import torch

from parallel.degrees import Degrees
from parallel.ranks import Ranks
from parallel.sharding import (
    Shards,
    join_shards,
    pad_to_longest,
    plan_shards,
    plan_text_shards,
    shard,
    strip_padding,
)


def plans(num_tokens: int, degrees: Degrees) -> list[Shards]:
    return [plan_shards(num_tokens, Ranks(degrees, rank)) for rank in range(degrees.world_size)]


@pytest.mark.parametrize("num_tokens", [7, 8, 9, 80, 105])
@pytest.mark.parametrize("degrees", [Degrees(), Degrees(ulysses=2), Degrees(ring=3), Degrees(ulysses=2, ring=3)])
def test_shards_are_even_and_cover_every_token_once(num_tokens: int, degrees: Degrees) -> None:
    tokens = torch.arange(num_tokens)[None, :, None].float()
    every = plans(num_tokens, degrees)
    assert max(every[0].lengths) - min(every[0].lengths) <= 1
    assert torch.equal(torch.cat([shard(tokens, plan) for plan in every], dim=1), tokens)


@pytest.mark.parametrize("num_text", range(10))
@pytest.mark.parametrize("num_video", [4, 5, 7, 80])
def test_a_text_evens_out_what_the_video_left_uneven(num_video: int, num_text: int) -> None:
    text = torch.arange(num_text)[None]
    videos = plans(num_video, Degrees(ulysses=2, ring=2))
    texts = [plan_text_shards(num_text, video) for video in videos]
    joint = join_shards(videos[0], texts[0])
    assert sum(joint.lengths) == num_video + num_text
    assert max(joint.lengths) - min(joint.lengths) <= 1
    assert torch.equal(torch.cat([shard(text, plan) for plan in texts], dim=1), text)


@pytest.mark.parametrize("num_tokens", [7, 8, 9])
def test_stripping_undoes_padding(num_tokens: int) -> None:
    tokens = torch.randn(1, 2, num_tokens, 3)
    every = plans(num_tokens, Degrees(ulysses=2, ring=2))
    padded = torch.cat([pad_to_longest(shard(tokens, plan, dim=2), plan, dim=2) for plan in every], dim=2)
    assert torch.equal(strip_padding(padded, every[0].lengths, dim=2), tokens)


def test_branches_on_different_ranks_hold_the_same_shards() -> None:
    every = plans(9, Degrees(cfg=2, ulysses=2))
    assert every[0] == every[2]
    assert every[1] == every[3]


def test_more_ranks_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="3 tokens, fewer than its 4 ranks"):
        plan_shards(3, Ranks(Degrees(ulysses=4)))
