"""What a sweep compares: curves, each a method with one key that is varied, and settings, the points on them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from dicache.config import CacheConfig
from dicache.overrides import override
from dicache.pairs import MethodName
from dicache.presets import for_model, for_quality
from dicache.section import flatten, nest
from dicache.unused import unused
from engine.config_file import Note, say_nothing
from engine.errors import InvalidInput, first_problem
from engine.yaml_file import read_yaml

Knob = Literal["threshold", "gate.interval", "gate.steps_skipped"]
"""The key of the cache section that trades speed for quality."""
METHODS: tuple[MethodName, ...] = tuple(name for name in get_args(MethodName) if name != "none")
_FACTORS = (0.5, 1, 2, 4)
_INTERVALS = (2, 3, 4, 6)
_SHARES = (0.5, 0.6, 0.7)
_FROM_CONFIG = ("decide", "probe_depth")  # keys that mean the same for every method, and that none publishes
# MagCache's limit of consecutive skips bounds its share of skipped steps; the later entries are its authors' settings
# for higher speed
_FASTER: dict[str, tuple[dict[str, Any], ...]] = {
    "magcache": ({}, {"max_consecutive_skips": 6}, {"max_consecutive_skips": 6, "warmup_ratio": 0.1})
}


@dataclass(frozen=True)
class Setting:
    """One cache section to be measured."""

    curve: str
    """The name of its curve."""
    label: str
    """The varied keys and their values, for people."""
    cache: CacheConfig


@dataclass(frozen=True)
class Curve:
    """A method, with the key that is varied."""

    name: str
    base: Mapping[str, Any]
    """Keys of the cache section that are set, with dots. All others have the values that the authors publish."""
    knob: Knob | None
    """None for a list of steps, which is a single setting."""
    values: tuple[float, ...] | None
    """Values of the knob, if they were given."""

    def at(self, value: float | None, **changes: Any) -> Setting:
        """The setting with that value of the knob.

        Args:
            value: of the knob; None where there is none.
            changes: further keys of the cache section.

        Raises:
            InvalidInput: the keys contradict one another.
        """
        keys = {**self.base, **changes} | ({} if self.knob is None else {self.knob: value})
        shown = {**changes} | ({} if self.knob is None else {self.knob: value})
        label = ", ".join(f"{_last(key)} {_shown(item)}" for key, item in shown.items())
        return Setting(self.name, label or "as listed", make_cache(self.name, keys))

    @property
    def default_value(self) -> float:
        """The published value of the knob."""
        cache = make_cache(self.name, self.base)
        value = cache.threshold if self.knob == "threshold" else getattr(cache.gate, _last(self.knob or ""))
        assert value is not None, "the method has that knob"
        return float(value)

    def ladder(self) -> list[Setting]:
        """The settings for the given values of the knob, or for some around the published value."""
        if self.knob is None:
            return [self.at(None)]
        if self.values is not None:
            return [self.at(value) for value in self.values]
        if self.knob == "gate.interval":
            return [self.at(value) for value in _INTERVALS]
        if self.knob == "gate.steps_skipped":
            return [self.at(value) for value in _SHARES]
        return [self.at(round(self.default_value * factor, 6)) for factor in _FACTORS]

    @property
    def variants(self) -> tuple[dict[str, Any], ...]:
        """Sets of keys to change for more skipped steps than the knob alone allows, in the order to try them."""
        faster = _FASTER.get(make_cache(self.name, self.base).gate_name, ({},))
        return tuple(changes for changes in faster if not changes.keys() & self.base.keys())


def make_cache(name: str, keys: Mapping[str, Any]) -> CacheConfig:
    """The cache section with these dotted keys, and defaults for all others.

    Args:
        name: of the curve, for the error.

    Raises:
        InvalidInput: a key or value is refused; one sentence.
    """
    try:
        return CacheConfig.model_validate_json(json.dumps(nest(keys)), strict=True)
    except ValidationError as error:
        _, problem = first_problem(error, "cache.")
        raise InvalidInput(f"--methods, {name}: {problem.rstrip('.')}.") from None


def read_curves(
    methods: str | None, cache: CacheConfig, names: Sequence[str] = (), note: Note = say_nothing
) -> list[Curve]:
    """The curves that ``--methods`` asks for; every method if it is left out.

    Args:
        methods: names with commas between them, or a YAML file with a list of cache sections, each with a ``name`` if
            it should have one of its own, and perhaps a list of values for ``threshold``, ``gate: {interval: ...}`` or
            ``gate: {steps_skipped: ...}``.
        cache: the configuration's; from it come the keys that mean the same for every method.
        names: under which the model may have been published. Values published for it take precedence over a method's
            general ones.
        note: is told of each key that was given under an old name.

    Raises:
        InvalidInput: one sentence that names the option and the value.
    """
    common = {key: getattr(cache, key) for key in _FROM_CONFIG}
    if cache.calibration is not None:
        common["calibration"] = str(cache.calibration)
    if methods is None:
        return [
            _named(name, common, names) for name in METHODS if name != "calibrated" or cache.calibration is not None
        ]
    if Path(methods).suffix in (".yaml", ".yml"):
        curves = list(_listed(Path(methods), common, names, note))
    else:
        curves = [_named(name.strip(), common, names) for name in methods.split(",")]
    names = [curve.name for curve in curves]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InvalidInput(f"--methods names {repeated} twice: give each curve a name of its own.")
    return curves


def _named(name: str, common: Mapping[str, Any], names: Sequence[str]) -> Curve:
    if name not in METHODS:
        nearest = max(METHODS, key=lambda known: difflib.SequenceMatcher(None, name, known).ratio())
        raise InvalidInput(f"--methods names {name!r}, which is no method to compare: did you mean {nearest}?")
    return _curve(name, {**_common(common, {"method": name}), "method": name}, names)


def _listed(file: Path, common: Mapping[str, Any], names: Sequence[str], note: Note) -> Iterator[Curve]:
    entries = read_yaml(file, "--methods is")
    if not isinstance(entries, list) or not entries:
        raise InvalidInput(f"--methods is {str(file)!r}, which holds no list: write `- method: dicache` on each line.")
    for entry in entries:
        if not isinstance(entry, dict):
            raise InvalidInput(
                f"--methods is {str(file)!r}, with the entry {entry!r}: write keys of the cache section, as "
                "`- method: dicache`."
            )
        try:
            section, lines = override({key: value for key, value in entry.items() if key != "name"}, [])
        except ValueError as error:
            raise InvalidInput(f"--methods is {str(file)!r}: {error}") from None
        for line in lines:
            note(f"--methods, {line}")
        own = flatten(section)
        name = entry.get("name") or _name_of(own)
        yield _curve(str(name), {**_common(common, own), **own}, names)


def _common(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What a curve takes from the configuration: no more than its method uses."""
    without_effect = unused({**common, **own})
    return {key: value for key, value in common.items() if key not in without_effect}


def _name_of(entry: Mapping[str, Any]) -> str:
    return " × ".join(str(entry[key]) for key in ("method", "gate", "estimator") if entry.get(key)) or "dicache"


def _curve(name: str, keys: dict[str, Any], names: Sequence[str]) -> Curve:
    given = {key: keys.pop(key) for key in get_args(Knob) if isinstance(keys.get(key), list)}
    cache = make_cache(name, keys)
    if cache.method == "none":
        raise InvalidInput(f"--methods, {name}: the method none is what all are compared with: leave it out.")
    if cache.method == "auto":
        raise InvalidInput(f"--methods, {name}: the method auto is one of the others: name those.")
    keys = for_model(cache, names) | keys
    if (quality := cache.quality) is not None:
        del keys["quality"]
        keys |= for_quality(make_cache(name, keys), quality, names)[0]
    knob: Knob | None = "threshold"
    if cache.gate_name == "calibrated":
        knob = "gate.steps_skipped"
    elif cache.gate_name in ("interval", "list"):
        knob = None if getattr(cache.gate, "compute_steps", None) is not None else "gate.interval"
    if any(key != knob for key in given):
        raise InvalidInput(f"--methods, {name}: {next(iter(given))} is a list, but the knob of this method is {knob}.")
    values = given.get(knob) if knob else None
    if values is None and knob in keys:
        values = [keys[knob]]
    curve = Curve(name, {key: value for key, value in keys.items() if key != knob}, knob, values and tuple(values))
    curve.ladder()  # raises where a value is refused
    return curve


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
