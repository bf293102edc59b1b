"""What is wrong with adapters that people bring: each fault with the reason that has to be given for it."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.support.adapter_files import Maker
from tests.support.adapter_model import Adapter
from tests.support.adapter_names import NamedLayer

ANOTHER_MODEL = "made for another model"


@dataclass(frozen=True)
class Fault:
    """reason: a regular expression; is_shape: whether it is one of shapes, so that the model is a different one."""

    reason: str
    is_shape: bool = False
    while_loading: bool = False
    damage: Callable[[Path], None] = lambda path: None  # of the written file


def _pair(maker: Maker, adapter: Adapter) -> tuple[NamedLayer, str, str, tuple[int, ...]]:
    """A layer with a plain LoRA in the file, which is added; its tensors' names, and its shape."""
    free = [layer for layer in maker.model.own_layers() if f"{layer.parts[0]}.weight" in maker.model.weights]
    changed = {part for layer, _ in adapter.paths.values() for part in layer.parts}
    free = [
        layer
        for layer in free
        if maker.model.whole(layer, maker.model.weights).ndim == 2 and not changed & set(layer.parts)
    ]
    layer = maker.random.choice(free)
    shape = tuple(maker.model.whole(layer, maker.model.weights).shape)
    down, up = (f"transformer.{layer.original}{ending}" for ending in maker.pair)
    adapter.tensors |= {down: torch.ones(2, shape[1]), up: torch.ones(shape[0], 2)}
    return layer, down, up, shape


def half(maker: Maker, adapter: Adapter) -> Fault:
    _, down, up, _ = _pair(maker, adapter)
    gone, kept = maker.random.choice([(down, up), (up, down)])
    del adapter.tensors[gone]
    return Fault(re.escape(kept) + r" without the lora_" + ("A" if gone == down else "B"))


def half_of_a_product(maker: Maker, adapter: Adapter) -> Fault:
    layer, down, up, shape = _pair(maker, adapter)
    del adapter.tensors[down], adapter.tensors[up]
    path = f"transformer.{layer.original}"
    if maker.random.random() < 0.5:
        adapter.tensors[f"{path}.hada_w1_a"] = torch.ones(shape[0], 2)
        return Fault(r"hada_w1_a without the hada_w1_b and hada_w2_a and hada_w2_b")
    adapter.tensors |= {f"{path}.lokr_w1": torch.ones(2, 2), f"{path}.lokr_w2_a": torch.ones(shape[0] // 2, 2)}
    return Fault(r"without the lokr_w2_b")


def not_a_number(maker: Maker, adapter: Adapter) -> Fault:
    _, down, _, _ = _pair(maker, adapter)
    adapter.tensors[down].view(-1)[maker.random.randrange(4)] = maker.random.choice([float("nan"), float("inf")])
    return Fault(re.escape(down) + " is not finite", while_loading=True)


def too_large(maker: Maker, adapter: Adapter) -> Fault:
    _, down, up, _ = _pair(maker, adapter)
    adapter.tensors[down].mul_(1e30)
    adapter.tensors[up].mul_(1e30)
    return Fault("not finite", while_loading=True)


def another_width(maker: Maker, adapter: Adapter) -> Fault:
    layer, down, _, shape = _pair(maker, adapter)
    adapter.tensors[down] = torch.ones(2, shape[1] + 16)
    return Fault(
        rf"{shape[0]}×{shape[1] + 16}, but that of {layer.original} is {shape[0]}×{shape[1]} here", is_shape=True
    )


def another_bias(maker: Maker, adapter: Adapter) -> Fault:
    layer, _, _, shape = _pair(maker, adapter)
    if not maker.model.has_bias(layer):
        return another_width(maker, adapter)
    adapter.tensors[f"transformer.{layer.original}.diff_b"] = torch.ones(shape[0] + 1)
    return Fault(rf"bias of {shape[0] + 1}, but that of {layer.original} is {shape[0]} here", is_shape=True)


def another_difference(maker: Maker, adapter: Adapter) -> Fault:
    layer, down, up, shape = _pair(maker, adapter)
    del adapter.tensors[down], adapter.tensors[up]
    adapter.tensors[f"transformer.{layer.original}.diff"] = torch.ones(shape[0] + 8, shape[1])
    return Fault(rf"weight of {shape[0] + 8}×{shape[1]}, but that of {layer.original} is", is_shape=True)


def another_size(maker: Maker, adapter: Adapter) -> Fault:
    """A wider model with more blocks: the shapes say what it was made for."""
    layer, down, _, shape = _pair(maker, adapter)
    adapter.tensors[down] = torch.ones(2, 4 * shape[1])
    for name in (down, down.replace(maker.pair[0], maker.pair[1])):
        adapter.tensors[name.replace(layer.original, "blocks.39.attn1.to_q")] = adapter.tensors[name].clone()
    return Fault(rf"{shape[0]}×{4 * shape[1]}, but that of {layer.original} is", is_shape=True)


def ranks(maker: Maker, adapter: Adapter) -> Fault:
    _, down, _, shape = _pair(maker, adapter)
    adapter.tensors[down] = torch.ones(3, shape[1])
    return Fault(rf"3×{shape[1]}.*do not fit one another")


def unknown_layer(maker: Maker, adapter: Adapter) -> Fault:
    path = maker.random.choice(
        [
            "vace_blocks.0.self_attn.q",
            "controlnet.blocks.0.self_attn.q",
            "lora_unet_down_blocks_0_proj_in",
            "audio_proj.0",
        ]
    )
    adapter.tensors[f"{path}.lora_down.weight"] = torch.ones(2, 8)
    adapter.tensors[f"{path}.lora_up.weight"] = torch.ones(8, 2)
    return Fault(re.escape(path) + r".*names no layer of this model's transformer")


def another_family(maker: Maker, adapter: Adapter) -> Fault:
    path = "double_blocks.0.img_attn_qkv" if maker.model.family == "wan" else "blocks.0.self_attn.q"
    adapter.tensors.clear()
    adapter.tensors |= {f"{path}.lora_A.weight": torch.ones(2, 64), f"{path}.lora_B.weight": torch.ones(64, 2)}
    return Fault(re.escape(path) + r".*names no layer of this model's transformer")


def deeper(maker: Maker, adapter: Adapter) -> Fault:
    blocks = "blocks.77.self_attn.q" if maker.model.family == "wan" else "double_blocks.77.img_attn_proj"
    adapter.tensors |= {f"{blocks}.lora_A.weight": torch.ones(2, 64), f"{blocks}.lora_B.weight": torch.ones(64, 2)}
    kind = blocks.partition(".")[0]
    return Fault(rf"{kind}\.77\..*the {kind} of this model's transformer are 0 to {maker.model.blocks - 1}")


def unknown_kind(maker: Maker, adapter: Adapter) -> Fault:
    layer, _, _, _ = _pair(maker, adapter)
    adapter.tensors[f"transformer.{layer.original}.gamma_z"] = torch.ones(2)
    return Fault(r"gamma_z is no kind of change that is known")


def refused_kind(maker: Maker, adapter: Adapter) -> Fault:
    layer, _, _, _ = _pair(maker, adapter)
    ending, words = maker.random.choice(
        [
            (".oft_blocks", r"orthogonal adapter \(OFT"),
            (".boft_R", "orthogonal adapter"),
            (".a1.weight", "a GLoRA"),
            (".ia3_l", r"\(IA\)³"),
            (".lora_down.scale_weight", "quantised"),
            (".base_layer.weight", "weights of a model that an adapter was added to"),
        ]
    )
    adapter.tensors[f"transformer.{layer.original}{ending}"] = torch.ones(2)
    return Fault(re.escape(ending) + r".*" + words)


def integers(maker: Maker, adapter: Adapter) -> Fault:
    _, down, _, _ = _pair(maker, adapter)
    adapter.tensors[down] = adapter.tensors[down].to(torch.int8)
    return Fault(re.escape(down) + r" as I8, but only floating-point numbers are applied")


def text_encoder_alone(maker: Maker, adapter: Adapter) -> Fault:
    adapter.tensors.clear()
    path = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    adapter.tensors |= {f"{path}.lora_down.weight": torch.ones(2, 8), f"{path}.lora_up.weight": torch.ones(8, 2)}
    return Fault(r"nothing that could be added to transformer: 2 tensors are not applied: they are for text encoders")


def second_transformer_alone(maker: Maker, adapter: Adapter) -> Fault:
    _, down, up, _ = _pair(maker, adapter)
    pair = {name.replace("transformer.", "transformer_2."): adapter.tensors[name] for name in (down, up)}
    adapter.tensors.clear()
    adapter.tensors |= pair
    return Fault(r"nothing that could be added to transformer: 2 tensors are not applied: they are for transformer_2")


def several_alphas(maker: Maker, adapter: Adapter) -> Fault:
    layer, _, _, _ = _pair(maker, adapter)
    adapter.tensors[f"transformer.{layer.original}.alpha"] = torch.tensor([1.0, 2.0])
    return Fault(r"\.alpha with 2 different values")


def alpha_of_nothing(maker: Maker, adapter: Adapter) -> Fault:
    layer, _, _, _ = _pair(maker, adapter)
    value = maker.random.choice([float("nan"), float("inf")])
    adapter.tensors[f"transformer.{layer.original}.alpha"] = torch.tensor(value)
    return Fault(r"\.alpha, which is not finite")


def whole_weights(maker: Maker, adapter: Adapter) -> Fault:
    adapter.tensors.clear()
    adapter.tensors |= {name: tensor for name, tensor in list(maker.model.weights.items())[:6]}
    return Fault(r"whole weights .* name it under model\.single_files")


def no_bias(maker: Maker, adapter: Adapter) -> Fault:
    layer = "blocks.0.attn1.norm_q" if maker.model.family == "wan" else "transformer_blocks.0.attn.norm_q"
    adapter.tensors[f"transformer.{layer}.diff_b"] = torch.ones(len(maker.model.weights[f"{layer}.weight"]))
    return Fault(rf"{layer} has no bias here")


def twice(maker: Maker, adapter: Adapter) -> Fault:
    layer, _, _, shape = _pair(maker, adapter)
    adapter.tensors[f"diffusion_model.{layer.original}.lora_down.weight"] = torch.ones(2, shape[1])
    return Fault(r"two tensors for one place")


def scale_alone(maker: Maker, adapter: Adapter) -> Fault:
    layer, down, up, shape = _pair(maker, adapter)
    del adapter.tensors[down], adapter.tensors[up]
    adapter.tensors[f"transformer.{layer.original}.dora_scale"] = torch.ones(shape[0], 1)
    return Fault(r"dora_scale without the lora_A")


def changed_base(maker: Maker, adapter: Adapter) -> Fault:
    _pair(maker, adapter)
    adapter.config = None
    content = {"r": 4, "lora_alpha": 4, "init_lora_weights": "pissa_niter_16", "peft_type": "LORA"}
    adapter.metadata["lora_adapter_metadata"] = json.dumps(content)
    return Fault(r"init_lora_weights pissa_niter_16, which changes the model's own weights")


def garbled_settings(maker: Maker, adapter: Adapter) -> Fault:
    _pair(maker, adapter)
    adapter.config = None
    text, reason = maker.random.choice(
        [
            ("{", "damaged settings"),
            ("[1]", "damaged settings"),
            ('{"r": 0, "lora_alpha": 4}', "r 0, which is no number that it could be"),
            ('{"r": 4, "lora_alpha": "x"}', "alpha 'x', which is no number"),
            ('{"peft_type": "BOFT"}', "says that the adapter is a BOFT"),
        ]
    )
    adapter.metadata["lora_adapter_metadata"] = text
    return Fault(reason)


def cut_short(maker: Maker, adapter: Adapter) -> Fault:
    _pair(maker, adapter)
    adapter.config = None
    return Fault("cut short", damage=lambda path: path.write_bytes(path.read_bytes()[:-3]) and None)


def pickle(maker: Maker, adapter: Adapter) -> Fault:
    adapter.config = None
    return Fault("cut short|cannot be read", damage=lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)) and None)


def git_lfs(maker: Maker, adapter: Adapter) -> Fault:
    adapter.config = None
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    return Fault("Git LFS pointer", damage=lambda path: path.write_bytes(text) and None)


FAULTS = (
    half,
    half_of_a_product,
    not_a_number,
    too_large,
    another_width,
    another_bias,
    another_difference,
    another_size,
    ranks,
    unknown_layer,
    another_family,
    deeper,
    unknown_kind,
    refused_kind,
    integers,
    text_encoder_alone,
    second_transformer_alone,
    several_alphas,
    alpha_of_nothing,
    whole_weights,
    no_bias,
    twice,
    scale_alone,
    changed_base,
    garbled_settings,
    cut_short,
    pickle,
    git_lfs,
)
