"""Which layers an adapter changes, and how: every tensor of its file is put to use, named in a note, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.components.loras.adapter_file import AdapterFile, open_adapter
from engine.components.loras.checks import check_layer, input_channels
from engine.components.loras.keys import Key, expert_of, locate, other_component, parse, refused_kind
from engine.components.loras.layers import Layer
from engine.components.loras.leftovers import Leftovers, absent_part, refuse_unknown
from engine.config import LoraConfig
from engine.errors import InvalidInput
from engine.models.layer_names import LayerNames
from engine.models.loras import lora_file

_RANKED = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
"""Kinds of tensors whose first dim is the rank."""
_WHOLE = ("diff", "diff_b", "set_weight", "set_bias", "reshape_weight")
"""Kinds that no alpha is for."""


@dataclass(frozen=True)
class LayerChange:
    """The tensors that change one layer.

    keys: names in the file by kind, without alphas.
    scaling: the factor of the low-rank change, alpha / rank.
    """

    layer: Layer
    keys: Mapping[str, str]
    scaling: float


@dataclass(frozen=True)
class Plan:
    """What an adapter does to a transformer.

    applied: how many tensors of the file are put to use.
    notes: sentences without a full stop, on tensors that are not, and on strengths that the file leaves open.
    """

    lora: LoraConfig
    file: Path
    changes: tuple[LayerChange, ...]
    applied: int
    notes: tuple[str, ...]


@dataclass
class _Group:
    layer: Layer
    path: str
    keys: dict[str, str] = field(default_factory=dict)


def plan_lora(lora: LoraConfig, names: LayerNames, layers: Mapping[str, Layer]) -> Plan:
    """Find out from an adapter's header what it does. Reads no values but alphas.

    Args:
        names: of the model's family.
        layers: of the transformer, :func:`engine.components.loras.layers.layers_by_name`.

    Raises:
        InvalidInput: it cannot be applied; one sentence that names the file, a tensor and the reason.
    """
    file = open_adapter(lora_file(lora))
    left = Leftovers()
    located, unknown = _located(file, lora, names, layers, left)
    groups = _grouped(file, located, names, left)
    changes, applied, no_alpha = [], 0, False
    for group in groups:
        kinds = {kind: name for kind, name in group.keys.items() if kind != "alpha"}
        factors = [name for kind, name in kinds.items() if kind not in _WHOLE]
        check_layer(file, group.layer, kinds)
        rank = next((file.shapes[kinds[kind]][0] for kind in _RANKED if kind in kinds), None)
        scaling = 1.0
        if alpha_key := group.keys.get("alpha"):
            alpha = file.number(alpha_key)
            scaling = alpha / rank if rank else 1.0  # as LyCORIS has it for factors that are whole
            if not scaling:
                left.add("have no effect with an alpha of 0", *factors)
                applied -= len(factors)
        elif file.settings and factors:
            scaling = file.settings.scaling(group.path, rank)
        elif rank is not None:
            no_alpha = no_alpha or file.noted_alpha != rank
        changes.append(LayerChange(group.layer, kinds, scaling))
        applied += len(group.keys)
    if unknown:  # after the shapes, which say more of an adapter for a larger model than blocks that this one lacks
        refuse_unknown(file, unknown, layers)
    _check_not_empty(file, lora, changes, left)
    notes = left.notes()
    if no_alpha and not file.settings:
        notes += _open_strength(file)
    return Plan(lora, file.path, tuple(changes), applied, tuple(notes))


def _located(
    file: AdapterFile, lora: LoraConfig, names: LayerNames, layers: Mapping[str, Layer], left: Leftovers
) -> tuple[list[tuple[Key, Layer]], list[Key]]:
    """The tensors for the layers of this transformer, and those that are for nothing that is known."""
    located, unknown = [], []
    both = any(expert_of(name) == "transformer_2" for name in file.shapes)
    for name in file.shapes:
        key = parse(name)
        expert = expert_of(name) or ("transformer" if both else None)
        layer = None if refused_kind(name) else locate(key, layers)
        if layer is None and (component := other_component(name)):
            left.add(f"are for {component}, and adapters are added to transformers alone", name)
        elif expert not in (None, lora.transformer):
            left.add(f"are for {expert}, and this adapter is added to {lora.transformer}", name)
        elif layer is not None:
            located.append((key, layer))
        elif absent := absent_part(key, names, layers):
            left.add(f"are for {absent}, which this model does not have", name)
        elif 0 in file.shapes[name]:
            left.add("are empty", name)
        else:
            unknown.append(key)
    return located, unknown


def _grouped(file: AdapterFile, located: list[tuple[Key, Layer]], names: LayerNames, left: Leftovers) -> list[_Group]:
    """The tensors of each layer together, without layers that cannot be changed."""
    groups: dict[Layer, _Group] = {}
    for key, layer in located:
        group = groups.setdefault(layer, _Group(layer, key.path))
        kind = "diff" if key.kind == "diff_m" else key.kind
        if other := group.keys.get(kind):
            raise InvalidInput(
                f"{file.path} holds {other} and {key.name}, which are two tensors for one place: download it again."
            )
        group.keys[kind] = key.name
    kept = []
    for group in groups.values():
        channels = input_channels(file, group.layer, group.keys) if group.layer.name == names.input_layer else None
        if group.keys.keys() == {"alpha"}:
            left.add("are alphas of layers that the file does not change", *group.keys.values())
        elif channels is not None and channels != group.layer.shape[1]:
            left.add(
                f"are for a {group.layer.name} of {channels} input channels, and that of this model has "
                f"{group.layer.shape[1]}",
                *group.keys.values(),
            )
        else:
            kept.append(group)
    return kept


def _check_not_empty(file: AdapterFile, lora: LoraConfig, changes: list[LayerChange], left: Leftovers) -> None:
    if not file.shapes:
        raise InvalidInput(f"{file.path} holds no tensor: download it again, or leave it out of model.loras.")
    if not changes:
        raise InvalidInput(
            f"{file.path} holds nothing that could be added to {lora.transformer}: {'; '.join(left.notes())}. "
            "Leave it out of model.loras, or name another transformer."
        )
    if all(change.keys.keys() <= {"set_weight", "set_bias"} for change in changes):
        raise InvalidInput(
            f"{file.path} holds whole weights ({next(iter(changes[0].keys.values()))}) and no adapter: "
            "name it under model.single_files instead of model.loras."
        )


def _open_strength(file: AdapterFile) -> list[str]:
    """What to say where neither tensors nor settings have an alpha, although there has been one."""
    if file.noted_alpha is not None:
        return [
            f"the header notes an alpha of {file.noted_alpha:g} (ss_network_alpha), but no tensor holds it: it is not "
            "applied, as in other tools, since converted files keep the note"
        ]
    if all(name.startswith("base_model.model.") for name in file.shapes):
        return ["there is no adapter_config.json beside it, which has peft's lora_alpha: alpha is taken to be the rank"]
    return []
