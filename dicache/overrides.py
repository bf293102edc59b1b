"""Overrides of the command line, applied to the cache section of a file."""

from collections.abc import Mapping, Sequence
from typing import Any

from dicache.config import HOW_MUCH
from dicache.section import KINDS, MOVED, Names, chosen, flatten, flatten_kind, is_old_dump, nest
from dicache.unused import unused

_OF_THE_GATE = ("threshold", "warmup_ratio", "warmup_steps", "max_consecutive_skips", "max_skips", "force_last")
"""Each gate has these on a scale of its own."""
_OF_THE_METHOD = (*_OF_THE_GATE, "gate", "estimator", "anchor", "last_blocks", "corrector")

_OF_A_METHOD = frozenset(
    f"{kind}.{key}" for kind, known in KINDS.items() for settings in known.values() for key in settings.method_keys
)
"""Keys of gates and estimators whose scale is that of one method. A file with old keys may have any of them, also those
that its own method does not use."""


def override(section: Any, overrides: Sequence[tuple[str, Any]]) -> tuple[Any, list[str]]:
    """The section with the overrides in it, and without the file's keys that belong to another method or gate.

    A threshold has another scale with another gate. If it stayed when only the method is overridden, the run would have
    neither the file's settings nor the published ones. A key of the file stays if the new method uses it and its scale
    is the same for all methods: decide, probe_depth, gamma_max, numbers of the model. A quality replaces a threshold,
    and a threshold a quality.

    Args:
        section: as in the file, or None.
        overrides: values by key, without "cache." before it; the empty key is the whole section, which is then meant as
            it stands.

    Returns:
        The section, under new names; and a sentence for each key that was given under an old one.

    Raises:
        ValueError: the section is none, or a key is given under its old and its new name; one sentence.
    """
    changes: dict[str, Any] = {}
    replaced: set[str] = set()
    moved: list[str] = []
    whole = False
    for key, value in overrides:
        if not key:
            section, changes, replaced, moved, whole = value, {}, set(), [], True
        elif (kind := key.removesuffix(".name")) in KINDS and not isinstance(value, Mapping):
            changes[kind] = value
        elif key in KINDS:
            if isinstance(value, Mapping):  # in the place of what was said about this gate before
                changes = {name: item for name, item in changes.items() if not name.startswith(f"{key}.")}
                replaced.add(key)
            changes |= flatten_kind(key, value)
        else:
            changes[MOVED.get(key, key)] = value
            moved += [key] if key in MOVED else []
    section = {} if section is None else section
    if not isinstance(section, Mapping):
        if changes:
            raise ValueError(f"cache is {section!r}, but it should be a section of keys: correct the file.")
        return section, []
    file = flatten(section)
    flat = (file if whole else _kept(file, changes, replaced)) | changes
    written = is_old_dump(section)
    in_file = [] if written else [key for key in section if key in MOVED]
    old = list(dict.fromkeys([*in_file, *moved]))
    gone = unused(flat).keys() & (file.keys() if written else {MOVED[key] for key in old})
    lines = [_line(key, MOVED[key] in gone, flat) for key in old]
    return nest({key: value for key, value in flat.items() if key not in gone}), lines


def _kept(file: Mapping[str, Any], changes: Mapping[str, Any], replaced: set[str]) -> dict[str, Any]:
    """The keys of the file that stay in effect."""
    merged = {**file, **changes}
    before, after = chosen(file), chosen(merged)
    dropped = {key for key in file if key.partition(".")[0] in replaced}
    if changes:
        dropped.add("chosen")  # the section is not any more what was chosen, and may leave something open again
    if _method(merged) != _method(file):
        dropped.update(_OF_THE_METHOD, _OF_A_METHOD)
    if after.gate != before.gate:
        dropped.update(_OF_THE_GATE)
    if changes.get("quality") is not None:
        dropped.update(_OF_THE_GATE, HOW_MUCH, _method_keys("gate", before))
    elif changes.keys() & set(HOW_MUCH):
        dropped.add("quality")
    kept = {key: value for key, value in file.items() if key not in dropped}
    if chosen({**kept, **changes}) == before:
        return kept
    without_effect = unused({**kept, **changes}).keys() - changes.keys()
    return {key: value for key, value in kept.items() if key not in without_effect}


def _method_keys(kind: str, names: Names) -> set[str]:
    settings = names.settings(kind)
    return {f"{kind}.{key}" for key in settings.method_keys} if settings else set()


def _method(section: Mapping[str, Any]) -> Any:
    return section.get("method") or "dicache"


def _line(old: str, is_gone: bool, flat: Mapping[str, Any]) -> str:
    new, names = MOVED[old], chosen(flat)
    kind = new.partition(".")[0]
    name = names.gate if kind == "gate" else names.estimator
    chooser = f"the {kind} {name}" if name else f"the method {names.method}"
    return f"cache.{old} is now cache.{new}" + (f", which {chooser} does not use: it is left out" if is_gone else "")
