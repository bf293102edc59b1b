"""Which weights of the published models are shared out, on the meta device."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import HunyuanVideoTransformer3DModel, WanTransformer3DModel
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from engine.components.empty import empty_component
from engine.components.wan.prompt_encoder import empty_encoder
from engine.errors import InvalidInput
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from parallel.weights import list_blocks, parameter_bytes, shard_pieces, shard_whole
from tests.support.small_model import tiny_config

WAN_14B = {
    "_class_name": "WanTransformer3DModel",
    "num_layers": 40,
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "text_dim": 4096,
    "in_channels": 16,
    "out_channels": 16,
}
UMT5_XXL = {
    "model_type": "umt5",
    "num_layers": 24,
    "num_heads": 64,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "feed_forward_proj": "gated-gelu",
    "vocab_size": 256384,
}


@pytest.fixture(params=[0, 11, 15])
def ranks(request: pytest.FixtureRequest) -> Iterator[Ranks]:
    """One of sixteen ranks, on torch's fake backend."""
    dist.init_process_group("fake", store=FakeStore(), world_size=16, rank=request.param)
    yield Ranks(Degrees(cfg=2, ulysses=4, ring=2), request.param, replica_group=dist.group.WORLD)
    dist.destroy_process_group()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name, settings in {"transformer": WAN_14B, "text_encoder": UMT5_XXL}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(settings))
    return tmp_path


def test_sixteen_ranks_hold_a_sixteenth_of_wan_14b_each(ranks: Ranks, model: Path) -> None:
    transformer = empty_component(WanTransformer3DModel, str(model), "transformer", torch.bfloat16)
    whole_bytes = parameter_bytes(transformer)
    shard_pieces(transformer, ranks)
    whole = {name: p.numel() for name, p in transformer.named_parameters() if not isinstance(p, DTensor)}
    assert whole == {"scale_shift_table": 2 * 5120}
    assert sum(parameter.numel() for parameter in transformer.parameters()) == 14_288_491_584
    assert parameter_bytes(transformer) == pytest.approx(whole_bytes / 16, rel=0.005)


def test_sixteen_ranks_hold_a_sixteenth_of_its_text_encoder_each(ranks: Ranks, model: Path) -> None:
    encoder = empty_encoder(str(model), torch.bfloat16)
    whole_bytes = parameter_bytes(encoder)
    shard_whole(encoder, list_blocks(encoder.encoder), ranks)
    assert all(isinstance(parameter, DTensor) for parameter in encoder.parameters())
    assert parameter_bytes(encoder) == pytest.approx(whole_bytes / 16, rel=0.001)


def test_what_is_gathered_at_a_time_is_little_of_wan_14b(model: Path) -> None:
    transformer = empty_component(WanTransformer3DModel, str(model), "transformer", torch.bfloat16)
    largest = max(parameter_bytes(block) for block in transformer.blocks)
    layers = (transformer.condition_embedder.time_proj, transformer.condition_embedder.text_embedder)
    assert all(parameter_bytes(layer) < largest for layer in layers)
    assert largest < parameter_bytes(transformer) / 40


def test_blocks_are_listed_in_the_order_in_which_they_run() -> None:
    """The token refiner of HunyuanVideo has a list of its own blocks, which is none of these."""
    with torch.device("meta"):
        model = HunyuanVideoTransformer3DModel(num_layers=2, num_single_layers=3, num_refiner_layers=2)
    assert list_blocks(model) == [*model.transformer_blocks, *model.single_transformer_blocks]


@pytest.mark.parametrize("value", ["1", '"yes"', "null"])
def test_a_switch_takes_true_or_false(value: str) -> None:
    assert tiny_config("parallel.shard_weights=true").parallel.shard_weights
    with pytest.raises(InvalidInput, match=r"parallel\.shard_weights"):
        tiny_config(f"parallel.shard_weights={value}")
