"""HunyuanVideo at its published sizes, on the meta device: a wrong configuration shows without weights."""

import pytest
import torch
from diffusers import HunyuanVideo15Transformer3DModel, HunyuanVideoTransformer3DModel

from engine.models.hunyuan_video import HunyuanVideoAdapter
from engine.models.hunyuan_video15 import HunyuanVideo15Adapter
from tests.support.published_hunyuan import HUNYUAN_VIDEO, HUNYUAN_VIDEO_15, HUNYUAN_VIDEO_VARIANTS


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def dual_stream_block(dim: int, head_dim: int) -> int:
    """Each stream: modulation 6 dim², attention 4 dim², feed-forward 8 dim², their biases, two norms of heads."""
    return 2 * (18 * dim**2 + 15 * dim + 2 * head_dim)


def single_stream_block(dim: int, head_dim: int) -> int:
    """Modulation 3 dim², query, key and value 3 dim², feed-forward in 4 dim², both outputs in one 5 dim²."""
    return 15 * dim**2 + 11 * dim + 2 * head_dim


@pytest.mark.parametrize("variant", HUNYUAN_VIDEO_VARIANTS)
def test_hunyuan_video(variant: str) -> None:
    with torch.device("meta"):
        transformer = HunyuanVideoTransformer3DModel.from_config(HUNYUAN_VIDEO | HUNYUAN_VIDEO_VARIANTS[variant])
    adapter = HunyuanVideoAdapter(transformer)
    assert adapter.num_blocks == 60
    assert count(transformer.transformer_blocks) == 20 * dual_stream_block(3072, 128)
    assert count(transformer.single_transformer_blocks) == 40 * single_stream_block(3072, 128)
    if variant == "latent_concat":  # 17 channels more in each patch, and no embedding of the guidance scale
        assert count(transformer) == 12_821_012_544 + 17 * 4 * 3072 - (256 * 3072 + 3072**2 + 2 * 3072)
    else:
        assert count(transformer) == 12_821_012_544, "25.64 GB in bfloat16, as the published shards add up to"
    shapes = {name: tuple(parameter.shape) for name, parameter in transformer.named_parameters()}
    assert shapes["x_embedder.proj.weight"] == (3072, 33 if variant == "latent_concat" else 16, 1, 2, 2)
    assert shapes["context_embedder.proj_in.weight"] == (3072, 4096)
    assert shapes["time_text_embed.text_embedder.linear_1.weight"] == (3072, 768)
    assert shapes["transformer_blocks.19.attn.add_q_proj.weight"] == (3072, 3072)
    assert shapes["single_transformer_blocks.39.proj_out.weight"] == (3072, 5 * 3072)
    assert shapes["proj_out.weight"] == (4 * 16, 3072)
    assert adapter.num_tokens(torch.Size((1, 16, 33, 90, 160))) == 118_800, "129 frames of 720 x 1280"
    assert adapter.num_tokens(torch.Size((1, 16, 33, 68, 120))) == 67_320, "129 frames of 544 x 960"


@pytest.mark.parametrize("task", ["t2v", "i2v"])
def test_hunyuan_video_15(task: str) -> None:
    with torch.device("meta"):
        transformer = HunyuanVideo15Transformer3DModel.from_config(HUNYUAN_VIDEO_15 | {"task_type": task})
    adapter = HunyuanVideo15Adapter(transformer)
    assert adapter.num_blocks == 54
    assert count(transformer.transformer_blocks) == 54 * dual_stream_block(2048, 128)
    assert count(transformer) == 8_326_608_160, "the technical report says 8.3 billion (arXiv 2511.18870)"
    shapes = {name: tuple(parameter.shape) for name, parameter in transformer.named_parameters()}
    assert shapes["x_embedder.proj.weight"] == (2048, 65, 1, 1, 1)
    assert shapes["context_embedder.proj_in.weight"] == (2048, 3584)
    assert shapes["context_embedder_2.linear_1.weight"] == (2048, 1472)
    assert shapes["image_embedder.linear_2.weight"] == (2048, 1152)
    assert shapes["proj_out.weight"] == (32, 2048)
    assert adapter.num_tokens(torch.Size((1, 32, 31, 30, 53))) == 49_290, "121 frames of 480 x 848"
    assert adapter.num_tokens(torch.Size((1, 32, 31, 45, 80))) == 111_600, "121 frames of 720 x 1280"
