"""The formula of engine/cost/memory.py: what it counts is counted here at published sizes, without data."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dicache.config import CacheConfig
from engine.checks.memory import memory_check
from engine.cost.blocks import all_blocks, largest_block
from engine.cost.job import job_of
from engine.cost.memory import choose_degrees, estimate, num_branches, num_tokens
from engine.cost.shape import shape_of_model
from engine.models.catalog import CATALOG, PublishedModel
from engine.models.facts import read_facts
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.ranks import Ranks
from parallel.sharding import plan_shards
from parallel.weights import list_blocks
from tests.support.published_blocks import few_blocks, peak_of_blocks
from tests.support.published_components import COMPONENTS, CONFIG_CLASSES, name_of
from tests.support.slow import all_slow_but
from tests.support.small_model import tiny_config
from tests.support.toy import COND, DIM, TOKENS, UNCOND, drive

BY_NAME = {model.name: model for model in CATALOG}
# of those that are alike in everything that is counted, one
COUNTED = (
    "Wan 2.1 T2V 1.3B",
    "Wan 2.1 T2V 14B",
    "Wan 2.1 I2V 14B 720P",
    "Wan 2.2 TI2V 5B",
    "HunyuanVideo",
    "HunyuanVideo 1.5 I2V 480p",
)


LAYOUTS = (
    Degrees(),
    Degrees(cfg=2),
    Degrees(ulysses=2),
    Degrees(ring=3),
    Degrees(cfg=2, ulysses=4),
    Degrees(ulysses=4, ring=2),
)


@pytest.mark.parametrize("name", COUNTED)
def test_live_tensors_inside_a_block(name: str) -> None:
    model = BY_NAME[name]
    tensors = peak_of_blocks(model) / (num_tokens(model) * model.dim * 2)
    assert model.live_tensors - 1 < tensors <= model.live_tensors, "rounded up"


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_of_blocks(name: str) -> None:
    model = BY_NAME[name]
    with torch.device("meta"):
        blocks = list_blocks(few_blocks(model))
    counts = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    shape = shape_of_model(model)
    assert max(counts) == counts[0] == largest_block(shape)
    assert all_blocks(shape) == counts[0] * shape.blocks + counts[-1] * shape.single_blocks


CASES = [(name, degrees) for name in COUNTED for degrees in LAYOUTS]
QUICK = [CASES[0], ("Wan 2.1 T2V 14B", LAYOUTS[4]), ("HunyuanVideo", LAYOUTS[2])]


@pytest.mark.parametrize(("name", "degrees"), all_slow_but(QUICK, CASES))
def test_denoising_takes_what_a_trace_takes(name: str, degrees: Degrees) -> None:
    """Within 5%, on the first rank of each layout."""
    model = BY_NAME[name]
    lanes = max(1, num_branches(model) // degrees.cfg)
    shards = plan_shards(num_tokens(model), Ranks(degrees))
    tensor = shards.length * model.dim * 2
    traced = 2 * model.parameters["transformer"] + peak_of_blocks(model, degrees) + (5 + 1) * lanes * tensor
    memory = estimate(model, degrees)
    assert memory.transformer + memory.cache + memory.step == pytest.approx(traced, rel=0.05)


@pytest.mark.parametrize("quantize", ["int8", "fp8"])
@pytest.mark.parametrize("name", ["Wan 2.1 T2V 14B", "HunyuanVideo"])
def test_a_matrix_is_dequantised_at_each_call(name: str, quantize: str) -> None:
    """In a small video, where that is more than all else: within 8% of a trace of the step alone."""
    model = replace(BY_NAME[name], video=(17, 320, 512))
    config = tiny_config(f"model.quantize={quantize}", "model.dtype=bfloat16")
    job = replace(job_of(config, model.facts, Degrees(), on_card=True, model=model), video=model.video, branches=1)
    tensor = num_tokens(model) * model.dim * 2
    traced = peak_of_blocks(model, quantize=quantize) + tensor  # and a probe
    assert traced > (model.live_tensors + 1) * tensor, "more than with plain weights"
    assert job.memory(1e12).step == pytest.approx(traced, rel=0.08)


ROUNDED = ["Wan 2.1 T2V 14B", "HunyuanVideo", "HunyuanVideo 1.5 T2V 480p"]


@pytest.mark.parametrize("name", all_slow_but(ROUNDED[:1], ROUNDED))
def test_activations_are_rounded_at_each_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the card multiplies float8: within 8% of a trace of the step alone."""
    monkeypatch.setattr("engine.cost.quantised.multiplies_float8", lambda: True)
    model = BY_NAME[name]
    config = tiny_config("model.quantize=fp8", "model.dtype=bfloat16")
    job = replace(job_of(config, model.facts, Degrees(), on_card=True, model=model), video=model.video, branches=1)
    tensor = num_tokens(model) * model.dim * 2
    traced = peak_of_blocks(model, quantize="fp8", dynamic=True) + tensor  # and a probe
    assert traced > (model.live_tensors + 10) * tensor, "more than with plain weights"
    assert job.memory(1e12).step == pytest.approx(traced, rel=0.08)


def test_the_cache_keeps_five_tensors_of_each_branch() -> None:
    run = drive(CacheConfig(threshold=0.25), lanes=(COND, UNCOND))
    assert run.controllers[0].cache_bytes == 2 * 5 * TOKENS * DIM * 4
    wan, hunyuan = BY_NAME["Wan 2.1 T2V 14B"], BY_NAME["HunyuanVideo"]
    assert estimate(wan, Degrees()).cache == 10 * 75_600 * 5120 * 2
    assert estimate(wan, Degrees(cfg=2, ulysses=4)).cache == 5 * 18_900 * 5120 * 2
    assert estimate(hunyuan, Degrees()).cache == 5 * 118_800 * 3072 * 2


def test_the_peak_is_the_transformer_and_the_largest_of_what_comes_and_goes() -> None:
    a14b = estimate(BY_NAME["Wan 2.2 T2V A14B"], Degrees())
    assert a14b.transformer == 2 * 14_288_491_584, "one expert at a time"
    tensor = 75_600 * 5120 * 2
    assert a14b.step == (13 + 2) * tensor
    assert a14b.decode == 4 * 126_892_531 + 19_600 * 720 * 1280
    assert a14b.peak == a14b.transformer + a14b.cache + a14b.step
    ti2v = estimate(BY_NAME["Wan 2.2 TI2V 5B"], Degrees())
    assert ti2v.peak == ti2v.transformer + ti2v.decode, "by then the cache is gone"
    small = estimate(BY_NAME["Wan 2.1 T2V 1.3B"], Degrees(cfg=2, ulysses=4))
    assert small.peak == small.transformer + 2 * 5_680_910_336, "there the text encoder is the largest"


def test_weights_that_are_shared_out() -> None:
    degrees = Degrees(cfg=2, ulysses=4)
    assert estimate(BY_NAME["Wan 2.1 T2V 14B"], Degrees(), shard_weights=True).transformer == 2 * 14_288_491_584
    a14b = estimate(BY_NAME["Wan 2.2 T2V A14B"], degrees, shard_weights=True)
    block = largest_block(shape_of_model(BY_NAME["Wan 2.2 T2V A14B"]))
    assert a14b.transformer == int(2 * (14_288_491_584 * 2 / 8 + 3 * block))
    with torch.device("meta"):
        kind, settings = COMPONENTS["Wan 2.2 T2V A14B"]["text_encoder"]
        table = kind(CONFIG_CLASSES[kind](**settings)).shared.weight
    assert table.numel() * 2 * 2 <= a14b.encoders <= table.numel() * 2 * 2 * 1.01
    hunyuan = BY_NAME["HunyuanVideo 1.5 T2V 720p"]
    encoders = [estimate(hunyuan, degrees, shard_weights=shared).encoders for shared in (False, True)]
    assert encoders == [2 * (7_070_619_136 + 219_314_944)] * 2, "the first rank has them whole"
    others = estimate(BY_NAME["Wan 2.2 T2V A14B"], degrees)
    assert (a14b.cache, a14b.step, a14b.decode) == (others.cache, others.step, others.decode)


@pytest.mark.parametrize("model", CATALOG, ids=name_of)
def test_more_ranks_need_no_more_memory_each(model: PublishedModel) -> None:
    memories = [estimate(model, choose_degrees(model, ranks)) for ranks in (1, 2, 4, 8)]
    denoising = [memory.transformer + memory.cache + memory.step for memory in memories]
    assert denoising == sorted(denoising, reverse=True)
    peaks = [memory.peak for memory in memories]
    assert max(peaks) <= 1.02 * peaks[0], "of HunyuanVideo 1.5 more tiles wait on the first rank"
    degrees = choose_degrees(model, 8)
    assert degrees.world_size == 8
    assert estimate(model, degrees, shard_weights=True).peak < peaks[-1]
    larger = replace(model, video=(model.video[0] * 2 - 1, *model.video[1:]))
    assert estimate(larger, degrees).step > estimate(model, degrees).step


def test_other_sizes_than_the_recipes() -> None:
    model, one = BY_NAME["Wan 2.1 T2V 14B"], Degrees()
    recipe, smaller = estimate(model, one), estimate(model, one, video=(81, 480, 832))
    assert estimate(model, one, video=model.video) == recipe
    assert (smaller.transformer, smaller.encoders) == (recipe.transformer, recipe.encoders)
    assert smaller.step * 75_600 == recipe.step * 32_760, "as the tokens"
    one_branch = estimate(model, one, branches=1, cached_tensors=0)
    assert one_branch.cache == 0 and one_branch.step == 14 * 75_600 * 5120 * 2
    assert estimate(model, one, block_bytes=4).transformer == 2 * recipe.transformer


def test_whether_a_model_fits_on_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU all ranks of the machine share its memory; the small model is in no catalog, and is counted."""
    config = tiny_config()
    facts = read_facts(config.model.path)
    for total, expected in ((1 << 40, True), (1 << 20, False)):
        monkeypatch.setattr("psutil.virtual_memory", lambda total=total: SimpleNamespace(total=total))
        assert memory_check(config, config.sampling, facts, Place(2))(Degrees(data=2)) is expected
