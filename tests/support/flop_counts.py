"""torch's FLOP counter, over transformers in pieces as the engine runs them."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.cost.lanes import LaneInputs
from engine.cost.shape import TransformerShape
from engine.models import hunyuan_video, hunyuan_video15, wan
from parallel.ranks import Ranks
from parallel.sharding import Shards, plan_shards, plan_text_shards
from tests.support.published_components import COMPONENTS


def _attention(query: Any, key: Any, value: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    """Both products of attention: torch counts them for kernels on GPUs and in its own decomposition alone."""
    (batch, heads, queries, dim), keys = query.shape, key.shape[2]
    return 2 * batch * heads * queries * keys * (dim + value.shape[3])


_attention._get_raw = True  # type: ignore[attr-defined]
ON_THE_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=ON_THE_CPU)


def published(name: str, **settings: Any) -> Any:
    """The transformer of a model of the catalog on the meta device, where nothing is computed."""
    kind, config = COMPONENTS[name]["transformer"]
    with torch.device("meta"):
        return kind(**config | settings).eval().requires_grad_(False)


def adapter_of(transformer: Any, shape: TransformerShape) -> Any:
    makers = {
        "wan": wan.WanAdapter,
        "hunyuan_video": hunyuan_video.HunyuanVideoAdapter,
        "hunyuan_video15": hunyuan_video15.HunyuanVideo15Adapter,
    }
    return makers[shape.kind](transformer)


def conditions(adapter: Any, shape: TransformerShape, lane: LaneInputs, latents: torch.Tensor, shards: Shards) -> Any:
    """The adapter's conditions of a lane; it would read lengths from masks, and on the meta device there is no data."""
    model = adapter.transformer
    if shape.kind == "wan":
        given: dict[str, Any] = {"prompt_embeds": latents.new_empty(1, lane.prompt, shape.text_dim)}
        if lane.image:
            given["image_embeds"] = latents.new_empty(1, lane.image, shape.image_dim)
            if model.config.pos_embed_seq_len:
                given["image_embeds"] = given["image_embeds"].view(2, -1, shape.image_dim)
        if shape.in_channels > shape.out_channels:
            beside = shape.in_channels - shape.out_channels
            given["latent_condition"] = latents.new_empty(1, beside, *latents.shape[2:])
        if lane.timesteps_differ:
            given["first_frame"] = latents.new_empty(1, shape.out_channels, 1, *latents.shape[3:])
        return adapter.conditions([given], latents, shards)[0]
    cos, sin = model.rope(latents)
    rotary = cos[shards.start : shards.start + shards.length], sin[shards.start : shards.start + shards.length]
    if shape.kind == "hunyuan_video":
        kind = model.config.image_condition_type
        return hunyuan_video.Condition(
            prompt_embeds=latents.new_empty(1, lane.prompt + lane.padding, shape.text_dim),
            prompt_attention_mask=latents.new_ones(1, lane.prompt + lane.padding, dtype=torch.long),
            text_shards=plan_text_shards(lane.prompt, shards),
            pooled_projections=latents.new_empty(1, shape.pooled_dim),
            guidance=latents.new_empty(1) if shape.guidance_embedded else None,
            rotary=rotary,
            image_latents=latents.new_empty(1, shape.out_channels, 1, *latents.shape[3:]) if kind else None,
        )
    projected = [model.context_embedder_2(latents.new_empty(1, lane.glyphs, shape.glyph_dim))]
    if lane.image:
        projected.append(model.image_embedder(latents.new_empty(1, lane.image, shape.image_dim)))
    return hunyuan_video15.Condition(
        prompt_embeds=latents.new_empty(1, lane.prompt, shape.text_dim),
        image_and_glyphs=torch.cat(projected, dim=1),
        text_shards=plan_text_shards(lane.text, shards),
        rotary=rotary,
        beside=latents.new_empty(1, shape.out_channels + 1, *latents.shape[2:]),
    )


def whole(tokens: int) -> Shards:
    return plan_shards(tokens, Ranks())
