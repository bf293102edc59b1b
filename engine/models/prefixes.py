"""What tools put before the names of tensors, and which tensors of a file belong to another component."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Modules that torch.compile, FSDP, activation checkpoints and DeepSpeed put around others, wherever those are."""
_ENCODERS = (
    "text_encoder",
    "text_encoder_2",
    "text_encoders",
    "cond_stage_model",
    "conditioner",
    "image_encoder",
    "clip_vision",
)
_TRANSFORMERS = ("model.diffusion_model", "diffusion_model", "transformer", "dit")
_VAES = ("vae", "first_stage_model")
_TRAINING = ("model_ema", "ema", "loss", "optimizer", "discriminator")
_OTHER_PARTS = {
    "transformer": (*_ENCODERS, *_VAES, *_TRAINING),
    "transformer_2": (*_ENCODERS, *_VAES, *_TRAINING),
    "vae": (*_ENCODERS, *_TRANSFORMERS, *_TRAINING),
}
"""Prefixes of other components than each, as checkpoints of several name them (ComfyUI, Stable Diffusion's own code),
and of what training keeps beside the weights."""


@dataclass(frozen=True)
class OwnNames:
    """The tensors of a file that belong to one component."""

    own: Mapping[str, str]
    """By the name in the file, the name without what is put before it."""
    others: Mapping[str, int]
    """The prefixes of other parts, with the number of their tensors."""


def own_names(names: Iterable[str], component: str, top_level: Collection[str]) -> OwnNames:
    """Strip from the names of a component what stands before all of them, and leave other parts of the file out.

    Args:
        component: "transformer", "transformer_2" or "vae".
        top_level: the first parts of names that the component itself has, which are never stripped.

    Raises:
        ValueError: two tensors have the same name without what is put before it; a phrase.
    """
    own, others = split_parts(names, component)
    plain = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in own}
    prefix = _prefix_of_most(plain.values(), top_level)
    plain = {name: short.removeprefix(prefix) for name, short in plain.items()}
    twice = next((short for short, times in Counter(plain.values()).items() if times > 1), None)
    if twice is not None:
        raise ValueError(f"it holds {twice} twice, under different prefixes")
    return OwnNames(plain, others)


def split_parts(names: Iterable[str], component: str) -> tuple[list[str], dict[str, int]]:
    """The names that may belong to the component, and for each prefix of another part the number of its tensors."""
    own: list[str] = []
    others: Counter[str] = Counter()
    for name in names:
        part = next((part for part in _OTHER_PARTS[component] if name.startswith(f"{part}.")), None)
        if part is None:
            own.append(name)
        else:
            others[part] += 1
    return own, dict(others)


def _prefix_of_most(names: Collection[str], top_level: Collection[str]) -> str:
    """What more than half of the names begin with, with its last full stop; a few others may be strays, which are
    refused by their full names."""
    prefix, inside = "", list(names)
    while inside:
        firsts = Counter(name[len(prefix) :].partition(".")[0] for name in inside if "." in name[len(prefix) :])
        first, times = firsts.most_common(1)[0] if firsts else ("", 0)
        longer = f"{prefix}{first}."
        inside = [name for name in inside if name.startswith(longer)]
        # a list of blocks is none, though HunyuanVideo's double_blocks hold more than half of its tensors
        is_list = inside and all(name[len(longer) :].partition(".")[0].isdigit() for name in inside)
        if first in top_level or 2 * times <= len(names) or is_list:
            return prefix
        prefix = longer
    return prefix
