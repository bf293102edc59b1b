"""Tensors of an adapter that are not applied: what is said of them, and which are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from engine.components.loras.adapter_file import AdapterFile
from engine.components.loras.keys import Key, candidates, refused_kind
from engine.components.loras.layers import Layer
from engine.errors import InvalidInput
from engine.models.layer_names import LayerNames

_BLOCK = re.compile(r"(\w*blocks)_(\d+)_")


class Leftovers:
    """Names of tensors by the reason why they change nothing."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, *names: str) -> None:
        """
        Args:
            reason: completes "2 tensors ...", in the plural.
        """
        self._names.setdefault(reason, []).extend(names)

    def notes(self) -> list[str]:
        """One for each reason, with the first names and how many more there are."""
        return [
            f"{_counted(names)} not applied: they {reason} ({_listed(names)})" for reason, names in self._names.items()
        ]


def absent_part(key: Key, names: LayerNames, layers: Mapping[str, Layer]) -> str | None:
    """The part that other models of the family have and this one has not, if the tensor is for one."""
    if refused_kind(key.name):
        return None
    for pattern, words in names.optional:
        if any(re.fullmatch(pattern, name) for name in candidates(key)):
            return None if any(re.fullmatch(pattern, name) for name in layers) else words
    return None


def refuse_unknown(file: AdapterFile, unknown: Sequence[Key], layers: Mapping[str, Layer]) -> None:
    """
    Raises:
        InvalidInput: always: one sentence on the first tensor, with how many more there are.
    """
    key = unknown[0]
    more = f", and {len(unknown) - 1} more" if len(unknown) > 1 else ""
    raise InvalidInput(f"{file.path} holds {key.name}{more}, {_why_unknown(key, layers)}: leave it out of model.loras.")


def _why_unknown(key: Key, layers: Mapping[str, Layer]) -> str:
    if kind := refused_kind(key.name):
        return f"which is {kind} and cannot be applied"
    owner, _, kind = key.name.rpartition(".")
    while owner:
        if any(name in layers for name in candidates(Key(owner, "", owner))):
            return f"and {kind} is no kind of change that is known"
        owner, dot, last = owner.rpartition(".")
        kind = f"{last}.{kind}" if dot else kind
    for name in candidates(key):
        if block := _BLOCK.search(name):
            first = f"{name[: block.start(2)]}0{name[block.end(2) :]}"
            if first in layers:
                numbers = {int(m[1]) for n in layers if (m := re.match(rf"{block[1]}_(\d+)_", n))}
                return f"but the {block[1]} of this model's transformer are 0 to {max(numbers)}"
    return "which names no layer of this model's transformer"


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} tensors are" if len(names) > 1 else "1 tensor is"


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
