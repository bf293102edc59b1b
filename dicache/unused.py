"""Refuses keys of the cache section that the chosen method does not use, with the name of one that does."""

from collections.abc import Iterable, Mapping
from typing import Any

from dicache.pairs import PAIRS, method_of_gate
from dicache.section import KINDS, MOVED, Names, chosen, flatten, is_old_dump, nest, shown
from dicache.settings import SHARED_KEYS


def complete(section: Mapping[Any, Any]) -> dict[str, Any]:
    """The section as :class:`dicache.config.CacheConfig` takes it, with the gate's and the estimator's names in it.

    Keys under old names that the chosen gate and estimator do not have are left out, and so is all that has no effect
    in a section that an older version wrote.

    Raises:
        ValueError: a key has no effect with the chosen method, or a name does not exist; one sentence.
    """
    flat = flatten(section)
    optional = set(flat) if is_old_dump(section) else {MOVED[key] for key in section if key in MOVED}
    problems = unused(flat)
    if problem := next((problems[key] for key in problems if key not in optional), None):
        raise ValueError(problem)
    names = chosen(flat)
    flat = {key: value for key, value in flat.items() if key not in problems and not _says_nothing(key, value, names)}
    for kind, known in KINDS.items():
        given, name = flat.pop(kind, None), names.gate if kind == "gate" else names.estimator
        if given is not None and not (isinstance(given, str) and given in known):
            listed = [repr(name) for name in known]
            raise ValueError(f"cache.{kind} is {given!r}, but it should be {', '.join(listed[:-1])} or {listed[-1]}.")
        if name is not None and (given is not None or any(key.startswith(f"{kind}.") for key in flat)):
            flat[kind] = name
    nested = nest(flat)
    return nested | {kind: {"name": nested[kind]} for kind in KINDS if isinstance(nested.get(kind), str)}


def _says_nothing(key: str, value: Any, names: Names) -> bool:
    """Whether the value is the null that a key has with methods that do not use it."""
    kind, _, inner = key.rpartition(".")
    if kind in KINDS:
        settings = names.settings(kind)
        return value is None and (settings is None or inner not in settings.model_fields)
    return value is None and key in ("threshold", "probe_depth")


_NEUTRAL: Mapping[str, Any] = {"decide": "together", "force_last": False, "corrector": False, "last_blocks": 0}
"""Values that are accepted with the method none: they change nothing there."""


def unused(flat: Mapping[str, Any]) -> dict[str, str]:
    """The keys that are given and have no effect with the chosen method, each with a sentence that says so."""
    names = chosen(flat)
    if names.method is None:
        return {}
    found = {}
    for key, value in flat.items():
        if not _is_no_value(key, value) and (reason := _why_unused(key, flat, names)):
            found[key] = f"cache.{key} is {shown(value)}, but {reason}."
    return found


def _is_no_value(key: str, value: Any) -> bool:
    """Whether the key counts as left out: a null does, unless it is a setting, as ``cache.gate.brake: null`` is."""
    kind, _, inner = key.rpartition(".")
    fields = [KINDS[kind][name].model_fields[inner] for name in _users(kind, inner)]
    return value is None and all(field.is_required() or field.default is None for field in fields)


def _why_unused(key: str, flat: Mapping[str, Any], names: Names) -> str | None:
    if key in ("method", "chosen"):
        return None
    kind, _, inner = key.rpartition(".")
    users = _users(kind, inner)
    if names.method == "none":
        if key in _NEUTRAL and _NEUTRAL[key] == flat[key]:
            return None
        advice = f"use {_choice(kind, users)}" if users else "name a method"
        return f"cache.method is none, which skips nothing: leave it out, or {advice}"
    if names.method == "auto":
        return (
            "cache.method is auto, which chooses that itself: name a method" if kind in KINDS or key in KINDS else None
        )
    if kind in KINDS:
        settings = names.settings(kind)
        if settings is None or inner in settings.model_fields or not users:
            return None  # an unknown gate or key is refused elsewhere
        name = names.gate if kind == "gate" else names.estimator
        return f"the {kind} is {name}: only {_uses(users)}: leave it out, or use {_choice(kind, users)}"
    if key in SHARED_KEYS:
        return _why_shared_is_unused(key, flat, names)
    return None


def _why_shared_is_unused(key: str, flat: Mapping[str, Any], names: Names) -> str | None:
    gate, estimator = names.settings("gate"), names.settings("estimator")
    if gate is None or estimator is None or key in gate.shared_keys | estimator.shared_keys:
        return None
    if key == "quality":
        return f"cache.gate is {names.gate}, which is exact: leave it out"
    gates, estimators = ([name for name, s in known.items() if key in s.shared_keys] for known in KINDS.values())
    if not estimators:
        return f"the gate is {names.gate}: only {_uses(gates)}: leave it out, or use {_choice('gate', gates)}"
    if uses_probe_as_anchor(flat):
        return None
    return (
        f"the gate is {names.gate} and the estimator is {names.estimator}: only the gates {_and(gates)} and the "
        f"estimators {_and(estimators)} use it: leave it out"
    )


def uses_probe_as_anchor(flat: Mapping[str, Any]) -> bool:
    """Whether estimates are added to the probe, which then has to be computed whatever the gate looks at."""
    pair = PAIRS.get(str(flat.get("method", "dicache")))
    return (flat.get("anchor") or (pair.anchor if pair else None)) == "probe"


def _users(kind: str, key: str) -> list[str]:
    return [name for name, settings in KINDS.get(kind, {}).items() if key in settings.model_fields]


def _choice(kind: str, users: list[str]) -> str:
    """The setting that chooses the first of these gates or estimators: ``cache.method=interval``."""
    method = method_of_gate(users[0]) if kind == "gate" else None
    return f"cache.method={method}" if method else f"cache.{kind}={users[0]}"


def _uses(names: list[str]) -> str:
    return f"{_and(names)} {'uses' if len(names) == 1 else 'use'} it"


def _and(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
