"""Blocks of published models at their published sizes, and what enters them, for traces on tensors without data."""

from typing import Any

import torch

from engine.components.quantising.layers import quantised_names
from engine.components.quantising.torchao_weights import Scheme, kept_in_fp8, quantised
from engine.cost.memory import num_tokens
from engine.models.catalog import PublishedModel
from engine.models.hunyuan_video import Condition, HunyuanVideoAdapter
from engine.models.wan import WanAdapter
from parallel.degrees import Degrees
from parallel.joint import JointAttentionProcessor
from parallel.ranks import Ranks
from parallel.sharding import Shards, plan_shards, plan_text_shards, shard
from parallel.weights import list_blocks
from tests.support.live_tensors import LiveTensors, fake_tensors
from tests.support.published_components import COMPONENTS

ALONE = Ranks()


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


def attend_here(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, text: Shards) -> torch.Tensor:
    """Attention to the rank's own keys alone."""
    return torch.nn.functional.scaled_dot_product_attention(query, key, value)


def quantised_as(scheme: Scheme, weight: torch.Tensor) -> torch.nn.Parameter:
    """A weight without data; where activations are rounded as well, as it is on a card that multiplies float8."""
    if not scheme.dynamic:
        return quantised(weight, scheme)
    rows = torch.empty(len(weight), 1, dtype=torch.float32)
    return kept_in_fp8(torch.empty_like(weight, dtype=torch.float8_e4m3fn), rows, scheme, weight.dtype)


def peak_of_blocks(
    model: PublishedModel, degrees: Degrees = ALONE.degrees, quantize: str = "none", dynamic: bool = False
) -> int:
    """The most bytes beside the weights that two blocks of each kind and what embeds their inputs hold at once, on the
    first rank, for one branch in bfloat16. It attends to its own keys: buffers of attention over ranks are left out.

    Args:
        quantize: as ``model.quantize``. dynamic: activations are rounded, too.
    """
    with fake_tensors(torch.bfloat16):
        transformer = few_blocks(model)
        if quantize != "none":
            for name in quantised_names(transformer):
                owner, _, leaf = name.rpartition(".")
                scheme = Scheme(quantize, dynamic)  # type: ignore[arg-type]
                weight = quantised_as(scheme, transformer.get_parameter(name).data)
                setattr(transformer.get_submodule(owner), leaf, weight)
        latents = torch.empty(1, *model.facts.latents_shape(*model.video), dtype=torch.float32)
        with LiveTensors(transformer) as live:
            adapter, entering = ACTIVATIONS[model.facts.family.name](model, transformer, latents, Ranks(degrees))
            if model.facts.family.name != "Wan" and degrees.sequence > 1:
                for block in list_blocks(transformer):
                    block.attn.set_processor(JointAttentionProcessor(attend_here))  # type: ignore[union-attr, operator]
            adapter.blocks(entering, 0, adapter.num_blocks)
    return live.peak
