"""Whether the tensors that an adapter holds for a layer are complete, fit one another, and fit the layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import torch

from engine.components.loras.adapter_file import AdapterFile
from engine.components.loras.deltas import delta, is_per_input
from engine.components.loras.layers import Layer, Shape
from engine.errors import InvalidInput

Kinds = Mapping[str, str]
"""The names of a layer's tensors by kind."""

_NAMES = {"down": "lora_A (lora_down)", "up": "lora_B (lora_up)", "magnitude": "scale of a DoRA"}
_LORA = ("down", "up", "mid", "down_bias", "up_bias")
_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
_LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")


def check_layer(file: AdapterFile, layer: Layer, kinds: Kinds) -> None:
    """Refuse tensors that cannot be applied to the layer; reads their shapes and dtypes alone.

    Raises:
        InvalidInput: one sentence that names the file, a tensor and the reason.
    """
    for kind, name in kinds.items():
        if kind != "reshape_weight":
            file.check_dtype(name)
        if 0 in file.shapes[name]:
            raise InvalidInput(f"{file.path} holds {name} without a value: download it again.")
    _check_complete(file, layer, kinds)
    factors = {kind: name for kind, name in kinds.items() if kind in (*_LORA, *_LOHA, *_LOKR)}
    if factors:
        _check_factors(file, layer, factors)
    outputs, inputs = layer.shape[0], prod(layer.shape[1:2])
    for kind, name in kinds.items():
        shape = file.shapes[name]
        if kind in ("diff", "set_weight") and _squeezed(shape) != _squeezed(layer.shape):
            _refuse_shape(file, name, layer, shape, layer.shape)
        if kind in ("diff_b", "set_bias", "up_bias"):
            if not layer.has_bias:
                raise InvalidInput(
                    f"{file.path} holds {name}, but {layer.name} has no bias here: leave it out of model.loras."
                )
            if prod(shape) != outputs:
                _refuse_shape(file, name, layer, shape, (outputs,), "bias")
        if kind == "down_bias" and prod(shape) != file.shapes[kinds["down"]][0]:
            _refuse_unlike(file, layer, {kind: name, "down": kinds["down"]})
        if kind == "magnitude":
            wanted = inputs if is_per_input(shape, layer.shape) else outputs
            if prod(shape) != wanted:
                _refuse_shape(file, name, layer, shape, (wanted,), "scale")
        if kind == "reshape_weight" and (wanted_shape := tuple(map(int, file.numbers(name)))) != layer.shape:
            _refuse_shape(file, name, layer, wanted_shape, layer.shape)


def input_channels(file: AdapterFile, layer: Layer, kinds: Kinds) -> int | None:
    """The input channels of the convolution that an adapter was made for; None if its tensors do not show them."""
    shapes = {kind: file.shapes[name] for kind, name in kinds.items()}
    if "reshape_weight" in kinds:
        shapes["diff"] = tuple(map(int, file.numbers(kinds["reshape_weight"])))
    for kind in ("diff", "set_weight", "down"):
        shape = shapes.get(kind, ())
        outputs = shapes.get("up", (0,))[0] if kind == "down" else shape[0] if shape else 0
        if outputs != layer.shape[0]:
            continue
        if len(shape) == len(layer.shape) and shape[2:] == layer.shape[2:]:
            return shape[1]
        kernel = prod(layer.shape[2:])
        if len(shape) == 2 and shape[1] % kernel == 0:
            return shape[1] // kernel
    return None


def _check_complete(file: AdapterFile, layer: Layer, kinds: Kinds) -> None:
    methods = [group for group in (_LORA, _LOHA, _LOKR) if any(kind in kinds for kind in group)]
    if len(methods) > 1:
        raise InvalidInput(
            f"{file.path} holds {_joined(kinds.values())} for {layer.name}, which are of several kinds of adapters: "
            "download it again."
        )
    missing: list[str] = []
    if "magnitude" in kinds and not methods:
        missing = ["down"]
    elif methods == [_LORA]:
        missing = [kind for kind in ("down", "up") if kind not in kinds]
    elif methods == [_LOHA]:
        missing = [kind for kind in _LOHA[:4] if kind not in kinds]
        if ("hada_t1" in kinds) != ("hada_t2" in kinds):
            missing += [kind for kind in ("hada_t1", "hada_t2") if kind not in kinds]
    elif methods == [_LOKR]:
        for number in "12":
            halves = [f"lokr_w{number}_a", f"lokr_w{number}_b"]
            there = [kind for kind in halves if kind in kinds]
            if f"lokr_w{number}" in kinds:
                if there:
                    raise InvalidInput(
                        f"{file.path} holds {kinds[f'lokr_w{number}']} and {kinds[there[0]]}, of which there can be "
                        "only one: download it again."
                    )
            else:
                missing += [kind for kind in halves if kind not in kinds]
        if "lokr_t2" in kinds and "lokr_w2" in kinds:
            missing += ["lokr_w2_a"]
    if missing:
        present = next(kinds[kind] for kind in (*_LORA, *_LOHA, *_LOKR, "magnitude") if kind in kinds)
        lacking = " and ".join(_NAMES.get(kind, kind) for kind in missing)
        raise InvalidInput(f"{file.path} holds {present} without the {lacking} that belongs to it: download it again.")


def _check_factors(file: AdapterFile, layer: Layer, factors: Kinds) -> None:
    shapes = {kind: file.shapes[name] for kind, name in factors.items()}
    try:
        change = delta({kind: torch.empty(shape, device="meta") for kind, shape in shapes.items()})
    except (RuntimeError, ValueError, IndexError):
        _refuse_unlike(file, layer, factors)
    shape = tuple(change.shape)
    if "down" in factors and "mid" not in factors:
        down, up = shapes["down"], shapes["up"]
        kernel = down[1:] if len(down) > 2 else layer.shape[1:]
        if _squeezed(up[2:]):
            _refuse_unlike(file, layer, factors)
        shape = (up[0], *(kernel if prod(kernel) == shape[1] else shape[1:]))
    elif len(shape) == 2 and shape[1] == prod(layer.shape[1:]):
        shape = (shape[0], *layer.shape[1:])
    if _squeezed(shape) != _squeezed(layer.shape):
        _refuse_shape(file, _joined(factors.values()), layer, shape, layer.shape)


def _refuse_shape(
    file: AdapterFile, name: str, layer: Layer, shape: Shape, expected: Shape, part: str = "weight"
) -> None:
    raise InvalidInput(
        f"{file.path} holds {name} for a {part} of {_text(shape)}, but that of {layer.name} is {_text(expected)} here: "
        "it was made for another model, so leave it out of model.loras."
    )


def _refuse_unlike(file: AdapterFile, layer: Layer, kinds: Kinds) -> None:
    held = ", ".join(f"{name} of {_text(file.shapes[name])}" for name in kinds.values())
    raise InvalidInput(f"{file.path} holds {held} for {layer.name}, which do not fit one another: download it again.")


def _squeezed(shape: Shape) -> Shape:
    """Without dims of 1, which tools add and remove."""
    return tuple(size for size in shape if size != 1)


def _joined(names: Iterable[str]) -> str:
    return " and ".join(names)


def _text(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "one number"
