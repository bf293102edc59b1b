"""Every layer is found under every name that adapters have for it, and nothing else is."""

from typing import Any

import pytest

from engine.components.loras.keys import locate, other_component, parse, refused_kind
from engine.components.loras.layers import flat, layers_by_name
from engine.models import layer_names
from tests.support.adapter_names import named_layers
from tests.support.published import random_wan
from tests.support.tiny_hunyuan import make_transformer

FAMILIES = {
    "wan": (layer_names.WAN, lambda: random_wan("Wan2.1-FLF2V-14B"), 3),
    "hunyuan": (layer_names.HUNYUAN_VIDEO, lambda: make_transformer("text"), 2),
    "hunyuan15": (layer_names.HUNYUAN_VIDEO_15, lambda: make_transformer("1.5 image"), 2),
}


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], dict[str, tuple[int, ...]], int]:
    names, make, blocks = FAMILIES[request.param]
    shapes = {name: tuple(parameter.shape) for name, parameter in make().named_parameters()}
    return request.param, layers_by_name(shapes, names), shapes, blocks


def test_every_layer_has_its_other_names(family: Any) -> None:
    name, table, shapes, blocks = family
    found = set()
    for layer in named_layers(name, blocks):
        for spelled in {layer.original, layer.comfy}:
            located = table[flat(spelled)]
            weights = [piece.weight.removesuffix(".weight") for piece in located.pieces]
            assert weights == list(layer.parts) * (2 if layer.swapped else 1), spelled
            outputs = sum(shapes.get(f"{part}.weight", shapes.get(part, (0,)))[0] for part in layer.parts)
            assert located.shape[0] == outputs, spelled
            starts = [piece.start for piece in located.pieces]
            assert starts == ([outputs // 2, 0] if layer.swapped else [0] * len(starts)), spelled
        found |= set(layer.parts)
    ours = {parameter.removesuffix(".weight").removesuffix(".bias") for parameter in shapes}
    assert found == ours, "the list of names that it is compared with has all layers"
    assert all(table[flat(layer)].name == layer for layer in ours)


PREFIXES = [
    "",
    "diffusion_model.",
    "transformer.",
    "model.",
    "model.diffusion_model.",
    "base_model.model.",
    "base_model.model.transformer.",
    "pipe.dit.",
    "unet.",
    "module.",
    "_orig_mod.",
]
SUFFIXES = {
    "down": [".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight", ".lora.down.weight", "_lora.down.weight"],
    "up": [".lora_B.weight", ".lora_B.default_0.weight", ".lora_up.weight", ".lora.up.weight", ".lora_B"],
    "mid": [".lora_mid.weight"],
    "up_bias": [".lora_B.bias", ".lora_B.default.bias"],
    "magnitude": [".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.default.weight"],
    "alpha": [".alpha", ".lora_alpha"],
    "hada_w1_a": [".hada_w1_a"],
    "hada_t2": [".hada_t2"],
    "lokr_w1": [".lokr_w1", ".lokr_w1.default"],
    "lokr_w2_b": [".lokr_w2_b"],
    "lokr_t2": [".lokr_t2"],
    "diff": [".diff", ".w_norm"],
    "diff_b": [".diff_b", ".b_norm"],
    "set_weight": [".set_weight", ".weight", ".modules_to_save.default.weight"],
    "set_bias": [".bias"],
    "reshape_weight": [".reshape_weight"],
}


def test_prefixes_and_endings(family: Any) -> None:
    name, table, _, _ = family
    layer = {"wan": "blocks.1.cross_attn.k_img", "hunyuan": "single_blocks.1.linear1"}.get(
        name, "double_blocks.1.img_attn_q"
    )
    expected = table[flat(layer)]
    spelled = [f"{prefix}{layer}" for prefix in PREFIXES]
    for prefix in ("lora_unet_", "lora_unet__", "lycoris_", "lora_transformer_", "lora_", "Hunyuan_video_I2V_lora_"):
        spelled += [f"{prefix}{flat(layer)}", f"{prefix}{layer}"]
    for path in spelled:
        for kind, endings in SUFFIXES.items():
            for ending in endings:
                key = parse(path + ending)
                assert key.kind == kind and locate(key, table) is expected, path + ending
                assert not refused_kind(path + ending)


def test_modulation(family: Any) -> None:
    name, table, _, _ = family
    for spelled in (
        "diffusion_model.blocks.1.diff_m",
        "blocks.1.modulation.diff",
        "lora_unet_blocks_1_modulation.diff",
    ):
        located = locate(parse(spelled), table)
        assert (located.name if located else None) == ("blocks.1.scale_shift_table" if name == "wan" else None)
    for spelled in ("head.diff_m", "diffusion_model.head.modulation.diff", "scale_shift_table.diff"):
        located = locate(parse(spelled), table)
        assert (located.name if located else None) == ("scale_shift_table" if name == "wan" else None)


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "text encoders"),
        ("text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_B.weight", "text encoders"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", "text encoders"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "text encoders"),
        ("te.model.layers.0.self_attn.q_proj.lora_A.weight", "text encoders"),
        ("umt5xxl.blocks.0.attn.q.lora_A.weight", "text encoders"),
        ("clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "text encoders"),
        ("bundle_emb.style.t5", "text encoders"),
        ("vae.decoder.conv_in.lora_A.weight", "the VAE"),
        ("image_encoder.vision_model.encoder.layers.0.mlp.fc1.lora_A.weight", "the image encoder"),
        ("vace_blocks.0.self_attn.q.lora_A.weight", None),
        ("controlnet.blocks.0.self_attn.q.lora_A.weight", None),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", None),
    ],
)
def test_what_is_no_layer_of_a_transformer(family: Any, name: str, component: str | None) -> None:
    assert locate(parse(name), family[1]) is None
    assert other_component(name) == component


def test_no_layer_is_taken_for_another_component(family: Any) -> None:
    name, _, shapes, blocks = family
    for layer in (*(named.original for named in named_layers(name, blocks)), *shapes):
        for prefix in PREFIXES:
            assert other_component(f"{prefix}{layer}.lora_A.weight") is None
