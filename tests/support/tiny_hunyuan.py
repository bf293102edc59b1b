"""HunyuanVideo transformers with the published configuration keys, reduced numbers and random weights, what their
pipelines would feed them, and what they answer: by diffusers' own forward pass, and by an adapter's pieces."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import HunyuanVideo15Transformer3DModel, HunyuanVideoTransformer3DModel
from torch import Tensor

from engine.models.hunyuan_video import HunyuanVideoAdapter
from engine.models.hunyuan_video15 import HunyuanVideo15Adapter
from parallel.sharding import Shards

CHANNELS, TEXT_DIM, POOLED_DIM, GLYPH_DIM, IMAGE_DIM = 4, 24, 12, 20, 18
KINDS = ("text", "latent_concat", "token_replace", "1.5 text", "1.5 glyphs", "1.5 image")

Named = dict[str, Tensor]


def make_transformer(kind: str, heads: int = 4) -> Any:
    """Equal weights for equal arguments, in evaluation mode."""
    torch.manual_seed(7)
    common = {
        "out_channels": CHANNELS,
        "num_attention_heads": heads,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_refiner_layers": 2,
        "mlp_ratio": 2.0,
        "patch_size_t": 1,
        "qk_norm": "rms_norm",
        "text_embed_dim": TEXT_DIM,
        "rope_theta": 256.0,
        "rope_axes_dim": (4, 6, 6),
    }
    if kind.startswith("1.5"):
        transformer = HunyuanVideo15Transformer3DModel(
            **common,
            in_channels=2 * CHANNELS + 1,
            patch_size=1,
            text_embed_2_dim=GLYPH_DIM,
            image_embed_dim=IMAGE_DIM,
            target_size=640,
            task_type="i2v" if kind == "1.5 image" else "t2v",
            use_meanflow=False,
        )
    else:
        transformer = HunyuanVideoTransformer3DModel(
            **common,
            in_channels=2 * CHANNELS + 1 if kind == "latent_concat" else CHANNELS,
            num_single_layers=2,
            patch_size=2,
            guidance_embeds=kind != "latent_concat",
            pooled_projection_dim=POOLED_DIM,
            image_condition_type=None if kind == "text" else kind,
        )
    for parameter in transformer.parameters():  # norms start as ones and biases as zeros, which would hide mistakes
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    return transformer.eval()


def make_adapter(transformer: Any) -> HunyuanVideoAdapter | HunyuanVideo15Adapter:
    is_15 = isinstance(transformer, HunyuanVideo15Transformer3DModel)
    return HunyuanVideo15Adapter(transformer) if is_15 else HunyuanVideoAdapter(transformer)


def make_inputs(kind: str, size: tuple[int, int, int], num_text: int, padding: int = 0) -> tuple[Tensor, Named]:
    """Noisy latents [1, channels, frames, height, width] and a lane's encoded prompt, whose padding is not zero."""
    generator = torch.Generator().manual_seed(num_text)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    latents = normal(1, CHANNELS, *size)
    first_frame = normal(1, CHANNELS, 1, *size[1:])
    mask = (torch.arange(num_text + padding) < num_text).long()[None]
    lane = {"prompt_embeds": normal(1, num_text + padding, TEXT_DIM)}
    if not kind.startswith("1.5"):
        lane |= {"prompt_attention_mask": mask, "pooled_projections": normal(1, POOLED_DIM)}
        lane["guidance"] = torch.tensor([6000.0])
        return latents, lane | ({} if kind == "text" else {"image_latents": first_frame})
    glyphs = torch.tensor([[1, 1, 1, 0, 0]]) * (kind == "1.5 glyphs")
    lane |= {"prompt_embeds_mask": mask, "prompt_embeds_2": normal(1, 5, GLYPH_DIM), "prompt_embeds_mask_2": glyphs}
    if kind == "1.5 image":
        lane |= {"image_embeds": normal(1, 6, IMAGE_DIM), "image_latents": first_frame}
    return latents, lane


@torch.no_grad()
def ask_diffusers(kind: str, transformer: Any, latents: Tensor, timestep: Tensor, lane: Named) -> Tensor:
    """The velocity that the kind's diffusers pipeline would get; zero for a first frame that it does not step."""
    given = lane.get("image_latents")
    embeds = {"encoder_hidden_states": lane["prompt_embeds"]}
    beside = torch.zeros(1, CHANNELS + 1, *latents.shape[2:])
    if given is not None:
        beside[:, :CHANNELS, :1] = given
        beside[:, CHANNELS:, :1] = 1
    if kind.startswith("1.5"):
        inputs = torch.cat([latents, beside], dim=1)
        embeds |= {"encoder_attention_mask": lane["prompt_embeds_mask"].float()}
        embeds |= {"encoder_hidden_states_2": lane["prompt_embeds_2"]}
        embeds |= {"encoder_attention_mask_2": lane["prompt_embeds_mask_2"].float()}
        embeds |= {"image_embeds": lane.get("image_embeds", torch.zeros(1, 6, IMAGE_DIM))}
    else:
        inputs = torch.cat([latents, beside], dim=1) if kind == "latent_concat" else latents
        embeds |= {"encoder_attention_mask": lane["prompt_attention_mask"].float()}
        embeds |= {"pooled_projections": lane["pooled_projections"]}
        embeds |= {"guidance": None if kind == "latent_concat" else lane["guidance"]}
    if kind == "token_replace":
        inputs = torch.cat([given, latents[:, :, 1:]], dim=2)
    dtype = transformer.dtype
    embeds = {name: None if value is None else value.to(dtype) for name, value in embeds.items()}
    timestep = timestep.expand(1).to(dtype if kind.startswith("1.5") else torch.float32)
    velocity: Tensor = transformer(inputs.to(dtype), timestep, **embeds, return_dict=False)[0]
    if kind == "token_replace":
        velocity[:, :, :1] = 0
    return velocity


@torch.no_grad()
def ask_adapter(
    adapter: Any, latents: Tensor, timestep: Tensor, lane: Named, shards: Shards, stops: Sequence[int] = ()
) -> tuple[Tensor, Any]:
    """This rank's tokens of the velocity, and what left the last block; the blocks run in parts that end at ``stops``
    and at the last block."""
    conditions = adapter.conditions([lane], latents, shards)
    (activations,) = adapter.embed(latents, timestep, conditions, shards)
    start = 0
    for stop in (*stops, adapter.num_blocks):
        activations, start = adapter.blocks(activations, start, stop), stop
    return adapter.head(activations), activations


def one_rank(adapter: Any, latents: Tensor) -> Shards:
    return Shards((adapter.num_tokens(latents.shape),))
