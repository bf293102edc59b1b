"""The names of tensors in adapters: what each is, and for which layer.

Sources of the names: peft, diffusers, kohya's and musubi's trainers, LyCORIS, ComfyUI, LightX2V, DiffSynth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from engine.components.loras.layers import Layer, flat
from engine.models.quantised import quantising_tool

_ADAPTER = r"(?:\.(?!weight$|bias$)(?P<adapter>[^.]+))?"  # peft's name of the adapter, mostly "default"
_LORA = r"[._]lora(?:_linear_layer)?[._]"
_KINDS = [
    (re.compile(rf"(?P<path>.+?){suffix}"), kind)
    for suffix, kind in (
        (rf"{_LORA}(?:A|down){_ADAPTER}(?:\.weight)?", "down"),
        (rf"{_LORA}(?:B|up){_ADAPTER}(?:\.weight)?", "up"),
        (rf"{_LORA}mid(?:\.weight)?", "mid"),
        (rf"{_LORA}(?:A|down){_ADAPTER}\.bias", "down_bias"),
        (rf"{_LORA}(?:B|up){_ADAPTER}\.bias", "up_bias"),
        (rf"\.(?:dora_scale|lora_magnitude_vector{_ADAPTER}(?:\.weight)?)", "magnitude"),
        (r"\.(?:lora[._]|network_)?alpha", "alpha"),
        (rf"\.(?P<kind>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)){_ADAPTER}(?:\.weight)?", ""),
        (r"\.(?:diff|w_norm)", "diff"),
        (r"\.(?:diff_b|b_norm)", "diff_b"),
        (r"\.diff_m", "diff_m"),
        (r"\.reshape_weight", "reshape_weight"),
        (rf"(?:\.set_weight|(?:\.modules_to_save{_ADAPTER})?\.weight)", "set_weight"),
        (rf"(?:\.set_bias|(?:\.modules_to_save{_ADAPTER})?\.bias)", "set_bias"),
    )
]
_REFUSED = (
    (re.compile(r"[._](?:oft_|boft_)"), "an orthogonal adapter (OFT, BOFT)"),
    (re.compile(r"\.(?:a1|a2|b1|b2|bm)\.weight$"), "a GLoRA"),
    (re.compile(r"[._]ia3_|\.on_input$"), "an (IA)³ adapter"),
    (re.compile(r"[._]vera_|vblora_|\.(?:fourierft|randlora|hra|waveft)_"), "a kind of adapter"),
    (re.compile(r"\.base_layer\."), "weights of a model that an adapter was added to"),
)
_SECOND = re.compile(r"(?:pipe\.)?(?:transformer_2|dit_?2|low_noise(?:_model)?)\.")
_FIRST = re.compile(r"high_noise(?:_model)?\.")
_WRAPPERS = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|processor)\.")
_PREFIX = re.compile(
    r"(?:lora_unet|lora_transformer|lora_prior_unet|lora_dit|lora_diffusion_model|lycoris|base_model|model|module"
    r"|diffusion_model|transformer_2|transformer|pipeline|pipe|dit_?2|dit|unet|network|net|denoiser|generator"
    r"|high_noise_model|low_noise_model|high_noise|low_noise|hunyuan_video(?:_i2v)?_lora|lora)_+",
    re.IGNORECASE,
)
_OTHER_COMPONENTS = re.compile(
    r"(?:base_model\.model\.|diffusion_model\.|pipe\.|model\.)*(?:lora_(?:prior_)?)?"
    r"(?:(?P<text>te\d?|text_encoders?(?:_\d)?|text_model|bundle_emb|cond_stage_model|conditioner|clip(?:_[lgh])?|llm|llama|llava"
    r"|qwen\w*|byt5(?!_in)|umt5\w*|t5\w*)|(?P<image>image_encoder|vision_model|clip_vision)"
    r"|(?P<vae>vae|first_stage_model|autoencoder))[._]"
)


@dataclass(frozen=True)
class Key:
    """What a name says.

    path: of the layer, as the file spells it, with its prefixes.
    """

    name: str
    kind: str
    path: str


def parse(name: str) -> Key:
    """What a tensor is by its name. A name without a known ending is that of a whole parameter."""
    for pattern, kind in _KINDS:
        if match := pattern.fullmatch(name):
            return Key(name, kind or match["kind"], match["path"])
    return Key(name, "set_weight", name)


def refused_kind(name: str) -> str | None:
    """The kind of an adapter that is not applied, if the name says that it is one."""
    if tool := quantising_tool(name):
        return f"quantised ({tool})"
    return next((kind for pattern, kind in _REFUSED if pattern.search(name)), None)


def expert_of(name: str) -> str | None:
    """Of two transformers the one that the name says it is for; None if it does not say."""
    if _SECOND.match(name):
        return "transformer_2"
    return "transformer" if _FIRST.match(name) else None


def other_component(name: str) -> str | None:
    """The component that a tensor is for if it is not a transformer's, in words."""
    match = _OTHER_COMPONENTS.match(name)
    if not match:
        return None
    return "text encoders" if match["text"] else "the image encoder" if match["image"] else "the VAE"


def locate(key: Key, layers: Mapping[str, Layer]) -> Layer | None:
    """The layer that a tensor is for.

    Args:
        layers: of :func:`engine.components.loras.layers.layers_by_name`.
    """
    for name in candidates(key):
        if name in layers:
            return layers[name]
    return None


def candidates(key: Key) -> list[str]:
    """The names of the layer with underscores for dots, each with one prefix less than the one before."""
    name, found = flat(_WRAPPERS.sub("", key.path)), []
    while True:
        found += [f"{name}_modulation", name] if key.kind == "diff_m" else [name]
        prefix = _PREFIX.match(name)
        if not prefix:
            return found
        name = name[prefix.end() :]
