"""Defaults of the keys of the cache section. Each follows from the fields before it, among them method and gate."""

from collections.abc import Callable, Mapping
from typing import Any

from dicache.pairs import PAIRS
from dicache.section import KINDS
from dicache.unused import uses_probe_as_anchor


def _recommended(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the authors of the chosen gate and method publish, by dotted key, given the fields validated so far."""
    gate, pair = values.get("gate"), PAIRS.get(values.get("method", ""))
    if gate is None or pair is None:
        return {}
    if gate.name == pair.gate:
        return {**gate.recommended(), **pair.settings}
    # another gate comes with its own settings; only the corrector belongs to the method
    return {**gate.recommended(), "corrector": pair.settings.get("corrector", False)}


def published(name: str, otherwise: Any) -> Callable[[dict[str, Any]], Any]:
    """The default of a key that every method uses."""
    return lambda values: _recommended(values).get(name, otherwise)


def shared(name: str, otherwise: Any) -> Callable[[dict[str, Any]], Any]:
    """The default of a key that only some gates use: None with the others."""

    def value(values: dict[str, Any]) -> Any:
        gate = values.get("gate")
        return _recommended(values).get(name, otherwise) if gate is not None and name in gate.shared_keys else None

    return value


def warmup_steps(values: dict[str, Any]) -> Any:
    return None if values.get("warmup_ratio") is not None else shared("warmup_steps", 0)(values)


def probe_depth(values: dict[str, Any]) -> int | None:
    used = [values[kind] for kind in KINDS if values.get(kind) is not None]
    looks = any("probe_depth" in settings.shared_keys for settings in used) or (used and uses_probe_as_anchor(values))
    return 1 if looks else None


def own(kind: str) -> Callable[[dict[str, Any]], Any]:
    """The gate or the estimator of the method, with the method's settings."""

    def value(values: dict[str, Any]) -> Any:
        pair = PAIRS.get(values.get("method", ""))
        if pair is None:
            return None
        name = pair.gate if kind == "gate" else pair.estimator
        return with_defaults(kind, KINDS[kind][name](), values)

    return value


def with_defaults(kind: str, settings: Any, values: Mapping[str, Any]) -> Any:
    """The settings, with the method's in the place of defaults; what was given stays marked as given."""
    pair = PAIRS.get(values.get("method", ""))
    if pair is None or (kind == "gate" and settings.name != pair.gate):
        return settings
    own = {key.removeprefix(f"{kind}."): value for key, value in pair.settings.items() if key.startswith(f"{kind}.")}
    fields = type(settings).model_fields
    changed = {key: own[key] for key in own if key in fields and key not in settings.model_fields_set}
    return type(settings).model_construct(settings.model_fields_set, **{**dict(settings), **changed})
