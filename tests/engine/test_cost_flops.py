"""The formulas of engine/cost/flops.py against torch's counter, at published sizes, without data."""

import shutil
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.cost.flops import computed, denoise_flops, skipped, transformer_flops
from engine.cost.lanes import LaneInputs, lane_inputs
from engine.cost.shape import TransformerShape, read_shape, shape_of_config, shape_of_model
from engine.errors import InvalidInput
from engine.models.catalog import CATALOG, PublishedModel
from engine.models.families import FAMILIES
from parallel.degrees import Degrees
from tests.support.flop_counts import adapter_of, conditions, counter, published, whole
from tests.support.published_components import COMPONENTS, name_of
from tests.support.small_model import ROOT

BY_NAME = {model.name: model for model in CATALOG}
# of models that are alike in everything that is counted, one
COUNTED = (
    "Wan 2.1 T2V 1.3B",
    "Wan 2.1 T2V 14B",
    "Wan 2.1 I2V 14B 720P",
    "Wan 2.1 FLF2V 14B 720P",
    "Wan 2.2 I2V A14B",
    "Wan 2.2 TI2V 5B",
    "HunyuanVideo",
    "HunyuanVideo I2V",
    "HunyuanVideo I2V 33ch",
    "HunyuanVideo 1.5 I2V 480p",
)
SIZES = ((5, 224, 416), (81, 704, 1280))


def lane_of(model: PublishedModel, grid: tuple[int, ...], images: int) -> LaneInputs:
    shape = shape_of_model(model)
    limit = model.facts.family.max_text_tokens
    return lane_inputs(shape, prod(grid), prompt=77, max_text=limit, images=images, glyphs=9)


def images_of(model: PublishedModel) -> int:
    return {"text-to-video": 0, "image-to-video": 1, "first-last-frame": 2}[model.tasks[-1]]


def run_lane(adapter: Any, shape: TransformerShape, lane: LaneInputs, latents: Any, runs: Any) -> None:
    """As the predictor runs the lanes of one step on one rank."""
    shards = whole(lane.tokens)
    condition = conditions(adapter, shape, lane, latents, shards)
    for step in runs:
        (state,) = adapter.embed(latents, torch.tensor(999.0, device=latents.device), [condition], shards)
        for blocks in step.blocks:
            state = adapter.blocks(state, blocks.start, blocks.stop)
        if step.head:
            adapter.head(state)


@pytest.mark.parametrize("name", COUNTED)
def test_forward_passes(name: str) -> None:
    """Two blocks of each kind at two sizes, so that both the share of a block and of the rest are seen."""
    model = BY_NAME[name]
    few = {key: 2 for key in ("num_layers", "num_single_layers") if key in model.transformer}
    shape = shape_of_config(FAMILIES[model.pipeline], model.transformer | few)
    adapter = adapter_of(published(name, **few), shape)
    for size in SIZES:
        channels, *grid = model.facts.latents_shape(*size)
        lane = lane_of(model, model.facts.token_grid(*size), images_of(model))
        with counter() as counted:
            run_lane(adapter, shape, lane, torch.empty(1, channels, *grid, device="meta"), [computed(shape)])
        assert sum(transformer_flops(shape, lane).values()) == counted.get_total_flops()


@pytest.mark.parametrize("name", ["Wan 2.1 T2V 14B", "HunyuanVideo"])
def test_a_forward_pass_of_all_blocks(name: str) -> None:
    model = BY_NAME[name]
    shape = shape_of_model(model)
    channels, *grid = model.facts.latents_shape(*model.video)
    lane = lane_of(model, model.facts.token_grid(*model.video), images_of(model))
    with counter() as counted:
        latents = torch.empty(1, channels, *grid, device="meta")
        run_lane(adapter_of(published(name), shape), shape, lane, latents, [computed(shape)])
    assert sum(transformer_flops(shape, lane).values()) == counted.get_total_flops()


@pytest.mark.parametrize("name", ["Wan 2.1 T2V 1.3B", "HunyuanVideo I2V", "HunyuanVideo 1.5 T2V 480p"])
def test_steps_that_skip_blocks(name: str) -> None:
    """A lane whose steps are computed, skipped after a probe, with last blocks, and without the head."""
    model = BY_NAME[name]
    few = {key: 3 for key in ("num_layers", "num_single_layers") if key in model.transformer}
    shape = shape_of_config(FAMILIES[model.pipeline], model.transformer | few)
    steps = [computed(shape), skipped(shape, 1), skipped(shape, 2, 1), skipped(shape, 0, head=False)]
    channels, *grid = model.facts.latents_shape(*SIZES[0])
    lane = lane_of(model, model.facts.token_grid(*SIZES[0]), images_of(model))
    with counter() as counted:
        latents = torch.empty(1, channels, *grid, device="meta")
        run_lane(adapter_of(published(name, **few), shape), shape, lane, latents, steps)
    assert sum(denoise_flops(shape, [lane], [[step] for step in steps]).values()) == counted.get_total_flops()


def test_lanes_share_the_latents_embedding() -> None:
    shape = shape_of_model(BY_NAME["Wan 2.1 T2V 14B"])
    lane = lane_inputs(shape, 1000, prompt=5)
    one = denoise_flops(shape, [lane], [[computed(shape)]])
    two = denoise_flops(shape, [lane, lane], [[computed(shape)] * 2])
    assert two["embedding"] == one["embedding"]
    assert two["attention"] == 2 * one["attention"] == 2 * 40 * 4 * 1000**2 * 5120
    # ranks of the two branches have a lane each
    halves = [denoise_flops(shape, [lane, lane], [[computed(shape)] * 2], Degrees(cfg=2), rank) for rank in (0, 1)]
    assert halves == [one, one]


def test_ranks_that_share_a_sequence_add_up_to_one() -> None:
    """But for what every rank does whole, and the padding of attention where tokens do not divide."""
    shape = shape_of_model(BY_NAME["HunyuanVideo"])
    lane = lane_inputs(shape, 1001, prompt=100, max_text=256)
    degrees = Degrees(ulysses=2, ring=2)
    ranks = [transformer_flops(shape, lane, degrees, rank) for rank in range(4)]
    whole_lane = transformer_flops(shape, lane)
    for kind in ("projections", "feed_forward"):
        assert sum(rank[kind] for rank in ranks) == whole_lane[kind]
    assert {rank["attention"] for rank in ranks} == {60 * 4 * 276 * 1101 * 3072}, "1101 tokens: 276, 275, 275, 275"
    assert all(rank["text"] == whole_lane["text"] for rank in ranks)


@pytest.mark.parametrize("model", CATALOG, ids=name_of)
def test_rows_of_the_catalog_have_the_shapes_of_published_configurations(model: PublishedModel) -> None:
    family, config = FAMILIES[model.pipeline], COMPONENTS[model.name]["transformer"][1]
    assert shape_of_model(model) == shape_of_config(family, config)
    assert published(model.name, num_layers=1).config["num_attention_heads"] == shape_of_model(model).heads


def test_a_folder_is_read() -> None:
    shape = read_shape(ROOT / "configs" / "tiny_wan")
    assert (shape.dim, shape.num_blocks, shape.ffn_dim, shape.text_dim, shape.joint) == (128, 12, 384, 64, False)


def test_a_garbled_folder_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs" / "tiny_wan", tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    config = tmp_path / "model" / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"ffn_dim": 384', '"ffn_dim": null'))
    with pytest.raises(InvalidInput, match="lacks or garbles"):
        read_shape(tmp_path / "model")
