"""The cache section as it is written: nested, or flat with dotted keys, under new and old names.

Where keys are compared and changed, the section is flat: ``{"gate": "interval", "gate.interval": 3}`` stands for
``gate: {name: interval, interval: 3}``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dicache.estimators.registry import ESTIMATORS
from dicache.gates.registry import GATES
from dicache.pairs import PAIRS
from dicache.settings import Settings

KINDS: Mapping[str, Mapping[str, type[Settings]]] = {"gate": GATES, "estimator": ESTIMATORS}
_OF_GATES = (
    "published use_ret_steps polynomial signal ratios at_threshold steps_skipped brake release interval compute_steps"
)
_OF_ESTIMATORS = "gamma_min gamma_max order clock contraction shrinkage differences"
MOVED: Mapping[str, str] = {
    **{key: f"gate.{key}" for key in _OF_GATES.split()},
    **{key: f"estimator.{key}" for key in _OF_ESTIMATORS.split()},
}
"""Old names of keys, which are accepted until the next release, and what they are called now."""


@dataclass(frozen=True)
class Names:
    """What a section chooses. A name is None where it does not exist, and with the methods none and auto."""

    method: str | None
    gate: str | None = None
    estimator: str | None = None

    def settings(self, kind: str) -> type[Settings] | None:
        """The class of the settings of the chosen gate or estimator."""
        name = self.gate if kind == "gate" else self.estimator
        return None if name is None else KINDS[kind][name]


def is_old_dump(section: Mapping[Any, Any]) -> bool:
    """Whether an older version wrote the section, with all keys, those without effect among them."""
    return MOVED.keys() <= section.keys()


def flatten(section: Mapping[Any, Any]) -> dict[str, Any]:
    """The section with dotted keys, under their new names.

    Raises:
        ValueError: a key is given under its old and its new name; one sentence.
    """
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if key in KINDS:
            flat |= flatten_kind(key, value)
    for key, value in section.items():
        if key in KINDS:
            continue
        new = MOVED.get(key, str(key))
        if new in flat:
            raise ValueError(
                f"cache.{key} and cache.{new} are both given, but are the same key: leave out cache.{key}."
            )
        flat[new] = value
    return flat


def flatten_kind(kind: str, value: Any) -> dict[str, Any]:
    """The dotted keys for a value of ``gate`` or ``estimator``: a name, a section of keys, or null."""
    if isinstance(value, BaseModel):
        value = {key: getattr(value, key) for key in value.model_fields_set}
    if not isinstance(value, Mapping):
        return {kind: value}
    inner = {f"{kind}.{key}": item for key, item in value.items() if key != "name"}
    return {kind: value.get("name"), **inner} if "name" in value or not inner else inner


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`flatten`."""
    section = {key: value for key, value in flat.items() if key.partition(".")[0] not in KINDS}
    for kind in KINDS:
        inner = {key.removeprefix(f"{kind}."): value for key, value in flat.items() if key.startswith(f"{kind}.")}
        name = flat.get(kind)
        if inner:
            section[kind] = inner if name is None else {"name": name, **inner}
        elif kind in flat:
            section[kind] = name
    return section


def chosen(flat: Mapping[str, Any]) -> Names:
    """The method, the gate and the estimator that a section chooses."""
    method = flat.get("method", "dicache")
    if method in ("none", "auto"):
        return Names(method)
    if not isinstance(method, str) or method not in PAIRS:
        return Names(None)
    pair = PAIRS[method]
    names = {"gate": flat.get("gate") or pair.gate, "estimator": flat.get("estimator") or pair.estimator}
    return Names(
        method, *(name if isinstance(name, str) and name in KINDS[kind] else None for kind, name in names.items())
    )


def shown(value: Any) -> str:
    """A value in a sentence."""
    return repr(str(value)) if isinstance(value, Path) else "null" if value is None else str(value)
