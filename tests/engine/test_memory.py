"""The formula of engine/cost/memory.py: what it counts is counted here at published sizes, without data."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLHunyuanVideo15, AutoencoderKLWan

from dicache.config import CacheConfig
from engine.checks.memory import memory_check
from engine.components.wan.autoencoder import _Decoder, _Encoder
from engine.cost.blocks import all_blocks, largest_block
from engine.cost.memory import choose_degrees, estimate, num_branches, num_tokens
from engine.cost.shape import shape_of_model
from engine.models.catalog import CATALOG, PublishedModel
from engine.models.facts import read_facts
from engine.models.hunyuan_video import Condition, HunyuanVideoAdapter
from engine.models.wan import WanAdapter
from parallel.degrees import Degrees
from parallel.joint import JointAttentionProcessor
from parallel.place import Place
from parallel.ranks import Ranks
from parallel.sharding import Shards, plan_shards, plan_text_shards, shard
from parallel.weights import list_blocks
from tests.support.live_tensors import LiveTensors, fake_tensors
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


ALONE = Ranks()
LAYOUTS = (
    Degrees(),
    Degrees(cfg=2),
    Degrees(ulysses=2),
    Degrees(ring=3),
    Degrees(cfg=2, ulysses=4),
    Degrees(ulysses=4, ring=2),
)


def _own_rotary(transformer: Any, latents: torch.Tensor, shards: Shards) -> Any:
    cos, sin = transformer.rope(latents)
    return shard(cos, shards, dim=0), shard(sin, shards, dim=0)


def few_blocks(model: PublishedModel) -> Any:
    """The transformer with two blocks of each kind: the second has what left the first beside what entered."""
    kind, settings = COMPONENTS[model.name]["transformer"]
    counts = {key: 2 for key in ("num_layers", "num_single_layers") if key in settings}
    return kind(**settings | counts).eval().requires_grad_(False)


def wan_activations(
    model: PublishedModel, transformer: Any, latents: torch.Tensor, ranks: Ranks = ALONE
) -> tuple[Any, Any]:
    config = transformer.config
    lane = {"prompt_embeds": torch.empty(1, 512, 4096)}
    if config.in_channels > config.out_channels:
        lane["latent_condition"] = torch.empty(1, 20, *latents.shape[2:])
    if config.image_dim:
        lane["image_embeds"] = torch.empty(2 if config.pos_embed_seq_len else 1, 257, 1280)
    adapter = WanAdapter(transformer)
    shards = plan_shards(num_tokens(model), ranks)
    conditions = adapter.conditions([lane], latents, shards)
    return adapter, adapter.embed(latents, torch.tensor(999.0), conditions, shards)[0]


def hunyuan_activations(
    model: PublishedModel, transformer: Any, latents: torch.Tensor, ranks: Ranks = ALONE
) -> tuple[Any, Any]:
    shards = plan_shards(num_tokens(model), ranks)
    condition = Condition(  # the adapter would count the text's tokens, and here there is no data
        prompt_embeds=torch.empty(1, 256, 4096),
        prompt_attention_mask=torch.ones(1, 256, dtype=torch.long),
        text_shards=plan_text_shards(256, shards),
        pooled_projections=torch.empty(1, 768),
        guidance=torch.tensor([6000.0]),
        rotary=_own_rotary(transformer, latents, shards),
        image_latents=None,
    )
    adapter = HunyuanVideoAdapter(transformer)
    return adapter, adapter.embed(latents, torch.tensor(999.0), [condition], shards)[0]


def hunyuan15_activations(
    model: PublishedModel, transformer: Any, latents: torch.Tensor, ranks: Ranks = ALONE
) -> tuple[Any, Any]:
    """With as many tokens as text and image have at most."""
    from engine.components.hunyuan_video15.parts import PARTS
    from engine.models.hunyuan_video15 import Condition

    shards = plan_shards(num_tokens(model), ranks)
    condition = Condition(
        prompt_embeds=torch.empty(1, 1000, 3584),
        image_and_glyphs=torch.empty(1, 729 + 256, model.dim),
        text_shards=plan_text_shards(1000 + 729 + 256, shards),
        rotary=_own_rotary(transformer, latents, shards),
        beside=torch.empty(1, 33, *latents.shape[2:]),
    )
    adapter = PARTS.adapter(transformer)
    return adapter, adapter.embed(latents, torch.tensor(999.0), [condition], shards)[0]


ACTIVATIONS = {
    "Wan": wan_activations,
    "HunyuanVideo": hunyuan_activations,
    "HunyuanVideo 1.5": hunyuan15_activations,
}


@pytest.mark.parametrize("name", COUNTED)
def test_live_tensors_inside_a_block(name: str) -> None:
    model = BY_NAME[name]
    with fake_tensors(torch.bfloat16):
        transformer = few_blocks(model)
        shape = model.facts.latents_shape(*model.video)
        latents = torch.empty(1, *shape, dtype=torch.float32)
        with LiveTensors(transformer) as live:
            adapter, entering = ACTIVATIONS[model.facts.family.name](model, transformer, latents)
            adapter.blocks(entering, 0, adapter.num_blocks)
    tensors = live.peak / (num_tokens(model) * model.dim * 2)
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
    """Within 5%, on the first rank of each layout; the trace attends to the rank's own keys, for buffers of attention
    over ranks are left out."""
    model = BY_NAME[name]
    with fake_tensors(torch.bfloat16):
        transformer = few_blocks(model)
        latents = torch.empty(1, *model.facts.latents_shape(*model.video), dtype=torch.float32)
        with LiveTensors(transformer) as live:
            activate = ACTIVATIONS[model.facts.family.name]
            adapter, entering = activate(model, transformer, latents, Ranks(degrees))
            if model.facts.family.name != "Wan" and degrees.sequence > 1:
                for block in list_blocks(transformer):
                    block.attn.set_processor(JointAttentionProcessor(_attend_here))  # type: ignore[union-attr, operator]
            adapter.blocks(entering, 0, adapter.num_blocks)
    lanes = max(1, num_branches(model) // degrees.cfg)
    shards = plan_shards(num_tokens(model), Ranks(degrees))
    tensor = shards.length * model.dim * 2
    traced = 2 * model.parameters["transformer"] + live.peak + (5 + 1) * lanes * tensor
    memory = estimate(model, degrees)
    assert memory.transformer + memory.cache + memory.step == pytest.approx(traced, rel=0.05)


def _attend_here(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, text: Shards) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(query, key, value)


@pytest.mark.parametrize("name", ["Wan 2.1 T2V 14B", "Wan 2.2 TI2V 5B"])
def test_decoding_strips(name: str) -> None:
    """From the third latent frame on nothing new is remembered."""
    model = BY_NAME[name]
    channels, _, height, width = model.facts.latents_shape(*model.video)
    with fake_tensors(torch.float32):
        vae = AutoencoderKLWan(**COMPONENTS[name]["vae"][1]).eval().requires_grad_(False)
        decoder = _Decoder(vae)
        with LiveTensors(vae) as live:
            for _ in decoder(torch.empty(1, channels, 3, height, width)):
                pass
    pixels = model.video[1] * model.video[2]
    assert model.decode_bytes_per_pixel * 0.99 < live.peak / pixels <= model.decode_bytes_per_pixel


def test_encoding_images_takes_less_than_decoding() -> None:
    model = BY_NAME["Wan 2.1 I2V 14B 720P"]
    _, height, width = model.video
    with fake_tensors(torch.float32):
        vae = AutoencoderKLWan().eval().requires_grad_(False)
        encoder = _Encoder(vae)
        with LiveTensors(vae) as live:
            encoder(iter([torch.empty(1, 3, frames, height, width) for frames in (1, 4, 4)]))
    assert live.peak < model.decode_bytes_per_pixel * height * width


def test_decoding_a_tile() -> None:
    model = BY_NAME["HunyuanVideo"]
    with fake_tensors(torch.float32):
        vae = AutoencoderKLHunyuanVideo().eval().requires_grad_(False)
        vae.enable_tiling()
        with LiveTensors(vae) as live:
            vae.decode(torch.empty(1, 16, 5, 32, 32))
    assert model.decode_bytes_per_tile * 0.99 < live.peak <= model.decode_bytes_per_tile


def test_decoding_a_tile_of_all_frames() -> None:
    """HunyuanVideo 1.5 does not cut time, so that a frame costs the same however many there are."""
    model = BY_NAME["HunyuanVideo 1.5 T2V 720p"]
    with fake_tensors(torch.float32):
        vae = AutoencoderKLHunyuanVideo15().eval().requires_grad_(False)
        vae.enable_tiling()
        with LiveTensors(vae) as live:
            vae.decode(torch.empty(1, 32, 2, 16, 16))
    peak = live.peak / 5 * model.video[0]
    assert model.decode_bytes_per_tile * 0.99 < peak <= model.decode_bytes_per_tile


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
    peaks = [estimate(model, choose_degrees(model, ranks)).peak for ranks in (1, 2, 4, 8)]
    assert peaks == sorted(peaks, reverse=True)
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
