"""Adds adapters to the weights of a transformer. After that it has plain layers with changed weights: attention over
ranks and sharding need no support for adapters."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from engine.components.empty import empty_component
from engine.components.files import loading
from engine.components.loras.adapter_file import read_tensor
from engine.components.loras.deltas import decomposed, delta
from engine.components.loras.layers import Layer, layers_by_name
from engine.components.loras.plan import LayerChange, Plan, plan_lora
from engine.components.parts import parts_of
from engine.config import Config
from engine.models.facts import ModelFacts
from parallel.slices import add_part, whole


def plan_loras(config: Config, facts: ModelFacts) -> tuple[Plan, ...]:
    """What each configured adapter does, in their order. Reads the headers of the files, and scalars, alone.

    Raises:
        InvalidInput: one cannot be applied; one sentence that names the file, a tensor and the reason.
    """
    kind, names = parts_of(facts.family).transformer, facts.family.layer_names
    layers: dict[str, dict[str, Layer]] = {}
    plans = []
    for lora in config.model.loras:
        if lora.transformer not in layers:
            empty = empty_component(kind, config.model.path, lora.transformer, torch.float32)
            shapes = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}
            layers[lora.transformer] = layers_by_name(shapes, names)
        plan = plan_lora(lora, names, layers[lora.transformer])
        if len(facts.transformers) > 1:
            plan = replace(plan, notes=(*plan.notes, *_other_expert(plan)))
        plans.append(plan)
    return tuple(plans)


def _other_expert(plan: Plan) -> list[str]:
    """What to say of a file whose name says that it is for the other of two transformers."""
    noise = {"transformer": "high", "transformer_2": "low"}
    named = {word.lower() for word in re.findall(r"(?i)(?<![a-z])(high|low)(?=noise|[^a-z]|$)", plan.file.stem)}
    here = noise[plan.lora.transformer]
    if len(named) != 1 or here in named:
        return []
    return [f"it is named for {named.pop()} noise, but is added to {plan.lora.transformer}, which is for {here} noise"]


def add_loras(
    transformer: Any,
    plans: Sequence[Plan],
    subfolder: str,
    changing: Callable[[Collection[str]], AbstractContextManager[Any]] = lambda names: nullcontext(),
) -> None:
    """Add the adapters that are meant for a transformer to its weights: block by block, in each block one adapter after
    the other.

    Args:
        transformer: loaded, whole or with this rank's part of its weights, which makes DoRA and replaced weights
            collective over the ranks that share it; it keeps its layers and dtypes.
        subfolder: of the transformer in the model's folder.
        changing: a context in which the named parameters of a block are changed.

    Raises:
        RankFailure: an adapter cannot be read, or it or the weights that it makes are not finite.
    """
    advice = "check the file, or leave it out of model.loras"
    changes = [(plan, change) for plan in plans if plan.lora.transformer == subfolder for change in plan.changes]
    with ExitStack() as files:
        sources = {}
        for plan, _ in changes:
            if plan.file not in sources:
                with loading("LoRA", plan.lora.path, advice):
                    sources[plan.file] = files.enter_context(safe_open(plan.file, framework="pt"))
        changes.sort(key=lambda entry: _block_of(entry[1]))
        for _, group in groupby(changes, key=lambda entry: _block_of(entry[1])):
            in_block = list(group)
            with changing({name for _, change in in_block for name in _names_of(change)}):
                for plan, change in in_block:
                    with loading("LoRA", plan.lora.path, advice):
                        _add(transformer, change, plan.lora.scale, sources[plan.file])


def changed_names(plans: Sequence[Plan], subfolder: str) -> set[str]:
    """The parameters of a transformer that its adapters may change."""
    here = (plan for plan in plans if plan.lora.transformer == subfolder)
    return {name for plan in here for change in plan.changes for name in _names_of(change)}


def _names_of(change: LayerChange) -> set[str]:
    pieces = change.layer.pieces
    return {piece.weight for piece in pieces} | {piece.bias for piece in pieces if piece.bias is not None}


def _block_of(change: LayerChange) -> tuple[str, ...]:
    """What stands before the number of a block in the names of its parameters, and the number."""
    return tuple(change.layer.name.split(".")[:2])


def describe_loras(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """For the run report: the adapters with the SHA-256 of their files, and what of them is applied."""
    described = []
    for plan in plans:
        with plan.file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        applied = {"tensors_applied": plan.applied, "notes": list(plan.notes)}
        described.append(plan.lora.model_dump() | {"sha256": sha256} | applied)
    return described


def lora_notes(plans: Sequence[Plan]) -> list[str]:
    """Lines for the user on what of the adapters is not applied, and on what looks like a mistake."""
    return [f"{plan.file.name}: {note}" for plan in plans for note in plan.notes]


def _add(transformer: Any, change: LayerChange, scale: float, source: Any) -> None:
    layer = change.layer
    parts = {kind: read_tensor(source, name) for kind, name in change.keys.items() if kind != "reshape_weight"}
    weight = _weight_change(transformer, layer, parts, scale, change.scaling)
    if weight is not None:
        for name, rows in _rows(layer, weight, "weight"):
            add_part(transformer.get_parameter(name), rows)
    bias = _bias_change(transformer, layer, parts, scale, change.scaling)
    if bias is not None:
        for name, rows in _rows(layer, bias, "bias"):
            add_part(transformer.get_parameter(name), rows)


def _weight_change(
    transformer: Any, layer: Layer, parts: dict[str, Tensor], scale: float, scaling: float
) -> Tensor | None:
    """In the layer's shape. A DoRA is scaled before it is normalised, as peft has it."""
    changes = []
    if parts.keys() & {"down", "hada_w1_a", "lokr_w1", "lokr_w1_a"}:
        changes.append(delta(parts).reshape(layer.shape) * (scale * scaling))
        if "magnitude" in parts:
            changes = [decomposed(_base(transformer, layer, "weight"), changes[0], parts["magnitude"])]
    if "diff" in parts:
        changes.append(parts["diff"].reshape(layer.shape) * scale)
    if "set_weight" in parts:
        changes.append((parts["set_weight"].reshape(layer.shape) - _base(transformer, layer, "weight")) * scale)
    return torch.stack(changes).sum(0) if changes else None


def _bias_change(
    transformer: Any, layer: Layer, parts: dict[str, Tensor], scale: float, scaling: float
) -> Tensor | None:
    """[outputs]."""
    changes = []
    if "up_bias" in parts:
        changes.append(parts["up_bias"].flatten() * (scale * scaling))
    if "down_bias" in parts:
        changes.append(parts["up"].flatten(1) @ parts["down_bias"].flatten() * (scale * scaling))
    if "diff_b" in parts:
        changes.append(parts["diff_b"].flatten() * scale)
    if "set_bias" in parts:
        changes.append((parts["set_bias"].flatten() - _base(transformer, layer, "bias")) * scale)
    return torch.stack(changes).sum(0) if changes else None


def _base(transformer: Any, layer: Layer, part: str) -> Tensor:
    """The layer's whole weight or bias as it is, float32 on the CPU; collective where weights are sharded."""
    rows = [
        whole(transformer.get_parameter(getattr(piece, part))).float().cpu()[piece.start : piece.stop]
        for piece in layer.pieces
    ]
    return torch.cat(rows)


def _rows(layer: Layer, change: Tensor, part: str) -> Iterator[tuple[str, Tensor]]:
    """The changes of the parameters that a layer is made of."""
    sizes = [piece.stop - piece.start for piece in layer.pieces]
    found: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
    for piece, rows in zip(layer.pieces, change.split(sizes), strict=True):
        found[getattr(piece, part)].append((piece.start, rows))
    for name, rows_of_one in found.items():
        yield name, torch.cat([rows for _, rows in sorted(rows_of_one, key=lambda entry: entry[0])])
