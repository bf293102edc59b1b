"""Published sizes on the meta device: a wrong configuration shows without weights.

Parameter counts are those of the weight files of the Wan-AI checkpoints, as their hosts and the tools that read their
headers report them; dimensions come from the authors' wan/configs (video/Wan2.1 and video/Wan2.2 of
ml-explore/mlx-examples hold them). The 14B files with CLIP have one more vector of 5120 numbers a block,
``norm_added_q``, which diffusers drops on loading. Nobody reports FLF2V: it is I2V with a table of positions.
"""

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from diffusers import WanTransformer3DModel

from engine.models.wan import WanAdapter
from parallel.ranks import Ranks
from parallel.sharding import plan_shards
from tests.support.published import WAN


@dataclass(frozen=True)
class Size:
    parameters: int
    layers: int
    heads: int
    dim: int
    ffn_dim: int
    in_channels: int = 16
    out_channels: int = 16
    clip_images: int = 0


_14B = {"layers": 40, "heads": 40, "dim": 5120, "ffn_dim": 13824}
_NORM_ADDED_Q = 40 * 5120
_I2V_14B = 16_395_083_584 - _NORM_ADDED_Q
SIZES = {
    "Wan2.1-T2V-1.3B": Size(1_418_996_800, 30, 12, 1536, 8960),
    "Wan2.1-T2V-14B": Size(14_288_491_584, **_14B),
    "Wan2.1-I2V-14B": Size(_I2V_14B, **_14B, in_channels=36, clip_images=1),
    "Wan2.1-FLF2V-14B": Size(_I2V_14B + 2 * 257 * 1280, **_14B, in_channels=36, clip_images=2),
    "Wan2.2-T2V-A14B": Size(14_288_491_584, **_14B),
    "Wan2.2-I2V-A14B": Size(14_288_901_184, **_14B, in_channels=36),
    "Wan2.2-TI2V-5B": Size(4_999_787_712, 30, 24, 3072, 14336, 48, 48),
}
# latent frames, rows and columns of 81 frames at 480p and 720p, and the tokens they make; the VAE of TI2V takes 16
# pixels a row where the others take 8, and 32 a token, so its 720p has 704 rows
SHAPES = {name: {(21, 60, 104): 32_760, (21, 90, 160): 75_600} for name in SIZES}
SHAPES["Wan2.2-TI2V-5B"] = {(21, 30, 52): 8_190, (21, 44, 80): 18_480}


@cache
def published(name: str) -> WanTransformer3DModel:
    with torch.device("meta"):
        return WanTransformer3DModel(**WAN[name]).eval().requires_grad_(False)


def test_every_published_transformer_is_measured() -> None:
    assert set(SIZES) == set(WAN)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_shapes(name: str) -> None:
    transformer, size = published(name), SIZES[name]
    assert sum(parameter.numel() for parameter in transformer.parameters()) == size.parameters
    assert len(transformer.blocks) == size.layers
    shapes = {key: tuple(parameter.shape) for key, parameter in transformer.named_parameters()}
    assert {block.attn1.heads for block in transformer.blocks} == {size.heads}
    assert shapes["patch_embedding.weight"] == (size.dim, size.in_channels, 1, 2, 2)
    assert shapes["blocks.0.attn1.to_q.weight"] == (size.dim, size.dim)
    assert shapes["blocks.0.ffn.net.0.proj.weight"] == (size.ffn_dim, size.dim)
    assert shapes["condition_embedder.text_embedder.linear_1.weight"] == (size.dim, 4096)
    assert shapes["condition_embedder.time_proj.weight"] == (6 * size.dim, size.dim)
    assert shapes["proj_out.weight"] == (4 * size.out_channels, size.dim)
    assert ("blocks.0.attn2.add_k_proj.weight" in shapes) == bool(size.clip_images)
    position = shapes.get("condition_embedder.image_embedder.pos_embed")
    assert position == ((1, 514, 1280) if size.clip_images == 2 else None)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("quality", ["480p", "720p"])
def test_a_step_of_81_frames_fits_together(name: str, quality: str) -> None:
    """The adapter's pieces on tensors of published shapes, without data."""
    size = SIZES[name]
    (frames, height, width), num_tokens = list(SHAPES[name].items())[quality == "720p"]
    adapter = WanAdapter(published(name))
    with torch.device("meta"):
        latents = torch.empty(1, size.out_channels, frames, height, width)
        lane = {"prompt_embeds": torch.empty(1, 512, 4096)}
        if size.in_channels > size.out_channels:
            lane["latent_condition"] = torch.empty(1, 20, frames, height, width)
        if size.clip_images:
            lane["image_embeds"] = torch.empty(size.clip_images, 257, 1280)
        timestep = torch.tensor(999)
    assert adapter.num_tokens(latents.shape) == num_tokens
    shards = plan_shards(num_tokens, Ranks())
    (entering,) = adapter.embed(latents, timestep, adapter.conditions([lane], latents, shards), shards)
    assert entering.hidden_states.shape == (1, num_tokens, size.dim)
    assert entering.condition.text.shape == (1, 257 * size.clip_images + 512, size.dim)
    tokens = adapter.head(adapter.blocks(entering, 0, size.layers))
    assert adapter.unpatchify(tokens, latents.shape).shape == latents.shape
