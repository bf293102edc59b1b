"""HunyuanVideo over ranks is HunyuanVideo on one, for every video and text length; padding is never attended."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from parallel.attention import install_sequence_attention
from parallel.degrees import Degrees
from parallel.joint import shard_text
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.sharding import Shards, gather, join_shards, plan_shards, plan_text_shards, shard
from tests.support.gang import Gang
from tests.support.slow import all_slow_but
from tests.support.tiny_hunyuan import KINDS, ask_adapter, make_adapter, make_inputs, make_transformer, one_rank

HEADS = 12
TIMESTEP = torch.tensor(737.0)
LAYOUTS = [
    Degrees(ulysses=2),
    Degrees(ring=2),
    Degrees(ulysses=3),
    Degrees(ring=3),
    Degrees(ulysses=4),
    Degrees(ring=4),
    Degrees(ulysses=2, ring=2),
]
# 48 tokens (192 of 1.5, whose patches are smaller) divide by 2, 3 and 4, 35 (140) by 4 at most, 5 (20) by less.
# Of the texts 12 divides, 7 does not, and 2 and 1 leave ranks without any.
SIZES = [((4, 6, 8), 12, 0), ((4, 6, 8), 7, 4), ((5, 2, 14), 12, 3), ((5, 2, 14), 2, 3), ((5, 2, 2), 1, 0)]


class Answer(NamedTuple):
    """All ranks' tokens, in order, of the velocity and of the text that left the last block."""

    velocity: Tensor
    text: Tensor


def ask_ranks(ranks: Ranks, kind: str, stop: int) -> list[Answer]:
    transformer = make_transformer(kind, HEADS)
    attention = install_sequence_attention(transformer, ranks)
    adapter, answers = make_adapter(transformer), []
    for size, num_text, padding in SIZES:
        latents, lane = make_inputs(kind, size, num_text, padding)
        shards = plan_shards(adapter.num_tokens(latents.shape), ranks)
        attention.begin(shards, CollectiveMeter())
        velocity, last = ask_adapter(adapter, latents, TIMESTEP, lane, shards, [stop])
        text = _gather_text(last.text, last.condition.text_shards, ranks)
        answers.append(Answer(gather(velocity, shards, ranks, CollectiveMeter()), text))
    return answers


def _gather_text(text: Tensor, shards: Shards, ranks: Ranks) -> Tensor:
    """Of ranks that may hold nothing: each shows its part of a text that is zero elsewhere."""
    whole = text.new_zeros(shards.num_tokens, text.shape[2])
    whole[shards.start : shards.start + shards.length] = text[0, : shards.length]
    torch.distributed.all_reduce(whole, group=ranks.sequence_group)
    return whole[None]


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture(scope="module")
def alone() -> dict[str, list[Answer]]:
    """One rank's answers of each kind, made once."""
    return {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "degrees", all_slow_but([Degrees(ulysses=2), Degrees(ring=3), Degrees(ulysses=2, ring=2)], LAYOUTS), ids=str
)
def test_ranks_answer_as_one(gang: Gang, alone: dict[str, list[Answer]], degrees: Degrees, kind: str) -> None:
    if kind not in alone:
        adapter = make_adapter(make_transformer(kind, HEADS))
        alone[kind] = []
        for size, num_text, padding in SIZES:
            latents, lane = make_inputs(kind, size, num_text, padding)
            velocity, last = ask_adapter(adapter, latents, TIMESTEP, lane, one_rank(adapter, latents))
            alone[kind].append(Answer(velocity, last.text))
    for rank_answers in gang.run(ask_ranks, degrees, kind, 1):
        for size, ours, theirs in zip(SIZES, rank_answers, alone[kind], strict=True):
            assert ours.velocity.shape == theirs.velocity.shape and ours.text.shape == theirs.text.shape
            assert relative(ours.velocity, theirs.velocity) <= 1e-5, size
            assert relative(ours.text, theirs.text) <= 1e-5, size


def ask_both(ranks: Ranks, kind: str) -> list[Tensor]:
    """The velocities of two guidance branches, embedded together, whose texts have 7 and 2 tokens."""
    transformer = make_transformer(kind, HEADS)
    attention = install_sequence_attention(transformer, ranks) if ranks.sequence_group else None
    adapter = make_adapter(transformer)
    latents, cond = make_inputs(kind, (4, 6, 8), 7, 4)
    _, uncond = make_inputs(kind, (4, 6, 8), 2, 9)
    shards = plan_shards(adapter.num_tokens(latents.shape), ranks)
    if attention is not None:
        attention.begin(shards, CollectiveMeter())
    with torch.no_grad():
        conditions = adapter.conditions([cond, uncond], latents, shards)
        lanes = adapter.embed(latents, TIMESTEP, conditions, shards)
        probes = [adapter.blocks(lane, 0, 1) for lane in lanes]
        velocities = [adapter.head(adapter.blocks(probe, 1, adapter.num_blocks)) for probe in probes]
    return [gather(velocity, shards, ranks, CollectiveMeter()) for velocity in velocities]


@pytest.mark.parametrize("kind", ["text", "1.5 text"])
def test_branches_have_texts_of_their_own_lengths(gang: Gang, kind: str) -> None:
    expected = ask_both(Ranks(), kind)
    for velocities in gang.run(ask_both, Degrees(ulysses=2, ring=2), kind):
        for ours, theirs in zip(velocities, expected, strict=True):
            assert relative(ours, theirs) <= 1e-5


def attend(ranks: Ranks, lengths: list[tuple[int, int]]) -> list[tuple[Tensor, Tensor, dict[str, int]]]:
    attention = install_sequence_attention(make_transformer("text", HEADS), ranks)
    results = []
    for num_video, num_text in lengths:
        video, meter = plan_shards(num_video, ranks), CollectiveMeter()
        text = plan_text_shards(num_text, video)
        attention.begin(video, meter)
        parts = [
            torch.cat([shard(v, video, dim=2), shard(t, text, dim=2)], dim=2)
            for v, t in zip(random(num_video), random(num_text), strict=True)
        ]
        out = attention.attend_joint(*parts, torch.tensor(text.lengths)).transpose(1, 2).flatten(2)
        joint = join_shards(video, text)
        assert out.shape[1] == joint.length and max(joint.lengths) - min(joint.lengths) <= 1
        everyone = _gather_text(out, joint, ranks)
        rows = [list(range(sum(joint.lengths[:r]), sum(joint.lengths[: r + 1]))) for r in range(len(joint.lengths))]
        video_rows = [row for r, own in enumerate(rows) for row in own[: video.lengths[r]]]
        text_rows = [row for r, own in enumerate(rows) for row in own[video.lengths[r] :]]
        results.append((everyone[:, video_rows], everyone[:, text_rows], dict(meter.sent_bytes)))
    return results


def random(num_tokens: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    return [torch.randn(1, HEADS, num_tokens, 16, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("degrees", LAYOUTS, ids=str)
def test_every_length_is_exact(gang: Gang, degrees: Degrees) -> None:
    lengths = [(video, text) for video in range(degrees.sequence, 10) for text in range(1, 10)]
    for rank_results in gang.run(attend, degrees, lengths):
        for (num_video, num_text), (video, text, _) in zip(lengths, rank_results, strict=True):
            joint = (torch.cat(pair, dim=2) for pair in zip(random(num_video), random(num_text), strict=True))
            expected = nn.functional.scaled_dot_product_attention(*joint).transpose(1, 2).flatten(2)
            assert (video - expected[:, :num_video]).abs().max() < 2e-6, (num_video, num_text)
            assert (text - expected[:, num_video:]).abs().max() < 2e-6, (num_video, num_text)


@pytest.mark.parametrize("degrees", [Degrees(ulysses=4), Degrees(ring=4), Degrees(ulysses=2, ring=2)], ids=str)
@pytest.mark.parametrize(("num_video", "num_text"), [(80, 12), (79, 13)])
def test_bytes_are_those_of_the_theory(gang: Gang, degrees: Degrees, num_video: int, num_text: int) -> None:
    """As for one stream (test_attention.py), of a sequence of both lengths: 92 tokens, 23 a rank."""
    tensor_bytes = (num_video + num_text) // degrees.sequence * HEADS * 16 * 4
    expected = {
        "all_to_all": 4 * tensor_bytes * (degrees.ulysses - 1) // degrees.ulysses,
        "ring": 2 * tensor_bytes * (degrees.ring - 1),
    }
    for rank_results in gang.run(attend, degrees, [(num_video, num_text)]):
        assert rank_results[0][2] == expected


def test_a_rank_without_text_holds_a_row_of_zeros() -> None:
    text, shards = torch.randn(1, 1, 8), [plan_text_shards(1, Shards((5, 5, 5), rank)) for rank in range(3)]
    assert [s.lengths for s in shards] == [(0, 0, 1)] * 3, "the last rank has no more video than the others"
    parts = [shard_text(text, s) for s in shards]
    assert torch.equal(parts[2], text)
    assert all(torch.equal(part, torch.zeros(1, 1, 8)) for part in parts[:2])


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_ranks_text_is_a_tensor_of_its_own(num_ranks: int) -> None:
    """For a view that begins inside its storage a compiled block would be compiled once more."""
    text, lengths = torch.randn(1, 12, 8), (5,) * num_ranks
    parts = [shard_text(text, plan_text_shards(12, Shards(lengths, rank))) for rank in range(num_ranks)]
    assert torch.equal(torch.cat(parts, dim=1), text)
    for part in parts:
        assert part.is_contiguous() and part.storage_offset() == 0
        assert part.untyped_storage().nbytes() == part.nbytes
        assert part.untyped_storage().data_ptr() != text.untyped_storage().data_ptr()


def test_only_known_families_are_given_attention() -> None:
    with pytest.raises(TypeError, match="Linear"):
        install_sequence_attention(nn.Linear(1, 1), Ranks())
