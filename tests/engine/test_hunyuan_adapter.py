"""The pieces of the HunyuanVideo adapters make up diffusers' forward pass, on one rank."""

from dataclasses import replace

import pytest
import torch
from diffusers import HunyuanVideo15Transformer3DModel, attention_backend
from torch import Tensor

from parallel.joint import JointAttentionProcessor, drop_masks
from parallel.sharding import Shards
from tests.support.tiny_hunyuan import (
    KINDS,
    ask_adapter,
    ask_diffusers,
    make_adapter,
    make_inputs,
    make_transformer,
    one_rank,
)

TIMESTEP = torch.tensor(737.0)
SIZE = (3, 6, 10)


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max()).item()


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("num_text", [1, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_are_the_forward_pass(kind: str, num_text: int, padding: int) -> None:
    transformer = make_transformer(kind)
    adapter = make_adapter(transformer)
    latents, lane = make_inputs(kind, SIZE, num_text, padding)
    expected = ask_diffusers(kind, transformer, latents, TIMESTEP, lane)
    tokens, _ = ask_adapter(adapter, latents, TIMESTEP, lane, one_rank(adapter, latents))
    ours = adapter.unpatchify(tokens, latents.shape)
    assert ours.shape == expected.shape
    if padding == 0 and kind in ("text", "latent_concat", "token_replace"):
        assert torch.equal(ours, expected), "without padding there is nothing that could round differently"
    assert relative(ours, expected) <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_may_stop_and_go_on_anywhere(kind: str) -> None:
    adapter = make_adapter(make_transformer(kind))
    latents, lane = make_inputs(kind, SIZE, 7, 4)
    shards = one_rank(adapter, latents)
    whole, _ = ask_adapter(adapter, latents, TIMESTEP, lane, shards)
    for stop in range(adapter.num_blocks + 1):
        assert torch.equal(ask_adapter(adapter, latents, TIMESTEP, lane, shards, [stop])[0], whole), stop


@pytest.mark.parametrize("kind", KINDS)
def test_several_lanes_are_their_own(kind: str) -> None:
    adapter = make_adapter(make_transformer(kind))
    latents, lane = make_inputs(kind, SIZE, 7, 4)
    other = make_inputs(kind, SIZE, 3)[1] | {n: t for n, t in lane.items() if n == "image_latents"}
    shards = one_rank(adapter, latents)
    with torch.no_grad():
        embedded = adapter.embed(latents, TIMESTEP, adapter.conditions([lane, other], latents, shards), shards)
    for activations, alone in zip(embedded, (lane, other), strict=True):
        with torch.no_grad():
            together = adapter.head(adapter.blocks(activations, 0, adapter.num_blocks))
        assert torch.equal(together, ask_adapter(adapter, latents, TIMESTEP, alone, shards)[0])


@pytest.mark.parametrize("kind", ["text", "1.5 text"])
def test_the_head_needs_the_video_alone(kind: str) -> None:
    """So a skipped step estimates no text."""
    adapter = make_adapter(make_transformer(kind))
    latents, lane = make_inputs(kind, SIZE, 7)
    tokens, last = ask_adapter(adapter, latents, TIMESTEP, lane, one_rank(adapter, latents))
    with torch.no_grad():
        assert torch.equal(adapter.head(replace(last, text=last.text * torch.nan)), tokens)


@pytest.mark.parametrize("kind", ["1.5 text", "1.5 image"])
def test_without_masks_1_5_answers_the_same(kind: str) -> None:
    transformer = make_transformer(kind)
    adapter = make_adapter(transformer)
    latents, lane = make_inputs(kind, SIZE, 7, 4)
    expected = ask_diffusers(kind, transformer, latents, TIMESTEP, lane)
    with attention_backend("native"):  # diffusers sets its choice for the whole process too; this takes that back
        transformer.set_attention_backend("_native_math")
    drop_masks(transformer)
    processors = [block.attn.processor for block in transformer.transformer_blocks]
    assert all(isinstance(processor, JointAttentionProcessor) for processor in processors)
    assert all(processor._attention_backend == "_native_math" for processor in processors), "the choice is kept"
    masks = []

    def note_mask(module: torch.nn.Module, args: object, kwargs: dict[str, object]) -> None:
        masks.append(kwargs["attention_mask"])

    for block in transformer.transformer_blocks:
        block.attn.register_forward_pre_hook(note_mask, with_kwargs=True)
    tokens, _ = ask_adapter(adapter, latents, TIMESTEP, lane, one_rank(adapter, latents))
    assert relative(adapter.unpatchify(tokens, latents.shape), expected) <= 1e-6
    num_text = 7 + (6 if kind == "1.5 image" else 0)
    assert all(mask.shape == (1, num_text) for mask in masks), "a mask of all tokens by all would not fit a GPU"


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_stays_bfloat16(kind: str) -> None:
    """Embeddings and latents come in float32; the timestep is one that bfloat16 can hold, since diffusers rounds it."""
    transformer = make_transformer(kind).to(torch.bfloat16)
    adapter = make_adapter(transformer)
    latents, lane = make_inputs(kind, SIZE, 7, 4)
    timestep = torch.tensor(736.0)
    expected = ask_diffusers(kind, transformer, latents, timestep, lane)
    tokens, last = ask_adapter(adapter, latents, timestep, lane, one_rank(adapter, latents))
    assert tokens.dtype == last.hidden_states.dtype == last.text.dtype == torch.bfloat16
    assert relative(adapter.unpatchify(tokens, latents.shape), expected) <= 3e-2


def test_a_rank_takes_its_own_part() -> None:
    """Before the blocks nothing depends on the other ranks: the parts of three ranks are the whole."""
    adapter = make_adapter(make_transformer("token_replace"))
    latents, lane = make_inputs("token_replace", SIZE, 5)
    (whole,) = _embedded(adapter, latents, lane, one_rank(adapter, latents))
    parts = [_embedded(adapter, latents, lane, Shards((15, 15, 15), rank))[0] for rank in range(3)]
    assert torch.equal(torch.cat([part.hidden_states for part in parts], dim=1), whole.hidden_states)
    assert torch.equal(torch.cat([part.text for part in parts], dim=1), whole.text)
    assert [part.given_tokens for part in parts] == [15, 0, 0]
    for cuts, expected in [((10, 35), [10, 5]), ((20, 25), [15, 0])]:
        given = [_embedded(adapter, latents, lane, Shards(cuts, rank))[0].given_tokens for rank in range(2)]
        assert given == expected
    for dim in range(2):
        rotary = torch.cat([part.condition.rotary[dim] for part in parts])
        assert torch.equal(rotary, whole.condition.rotary[dim])


def _embedded(adapter, latents: Tensor, lane: dict[str, Tensor], shards: Shards):
    with torch.no_grad():
        return adapter.embed(latents, TIMESTEP, adapter.conditions([lane], latents, shards), shards)


def test_padding_on_either_side_is_dropped_from_1_5() -> None:
    kind = "1.5 glyphs"
    transformer = make_transformer(kind)
    assert isinstance(transformer, HunyuanVideo15Transformer3DModel)
    adapter = make_adapter(transformer)
    latents, lane = make_inputs(kind, SIZE, 4, 3)
    lane["prompt_embeds_mask"] = torch.tensor([[0, 1, 1, 0, 1, 1, 0]])
    expected = ask_diffusers(kind, transformer, latents, TIMESTEP, lane)
    tokens, _ = ask_adapter(adapter, latents, TIMESTEP, lane, one_rank(adapter, latents))
    assert relative(adapter.unpatchify(tokens, latents.shape), expected) <= 1e-6
