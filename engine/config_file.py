"""Reads a configuration: one YAML file plus overrides, with paths made absolute, validated as a whole."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from dicache.overrides import override as override_cache
from dicache.section import MOVED
from engine.config import Config, valid_keys
from engine.config_paths import anchor_paths, expand_home
from engine.errors import InvalidInput, first_problem
from engine.yaml_file import parse_yaml, read_yaml
from parallel.config import spell_out

AnyConfig = TypeVar("AnyConfig", bound=Config)
Note = Callable[[str], None]

_OLD_KEYS = {"parallel.tensor", *(f"cache.{key}" for key in MOVED)}


def say_nothing(line: str) -> None:
    """The default for ``note``: drop the line."""


def load_config(path: str | Path, overrides: Sequence[str] = (), note: Note = say_nothing) -> Config:
    """As :func:`read_config`, with the sections that the engine reads."""
    return read_config(Config, path, overrides, note)


def read_config(
    kind: type[AnyConfig],
    path: str | Path,
    overrides: Sequence[str] = (),
    note: Note = say_nothing,
    sections: Mapping[str, Any] | None = None,
) -> AnyConfig:
    """Read a configuration file and apply ``key.sub=value`` overrides, whose values are read as YAML.

    If they name another method or gate for the cache, the keys in the file that belong to its own are dropped.

    A relative path in the file is taken from the file's folder if it exists there, else from the
    working directory; in an override always from the working directory.

    Args:
        kind: the sections that the file may have; a job has more than the engine reads.
        note: called for each key of an earlier version, with a sentence without a full stop.
        sections: in the place of the file's, as if they stood in it; paths in them are absolute.

    Raises:
        InvalidInput: the file, a key or a value is not acceptable; one sentence that names it.
    """
    file = expand_home(Path(path))
    tree = _read_mapping(file)
    anchor_paths(tree, file.parent, only_existing=True)
    tree |= sections or {}
    of_cache: list[tuple[str, Any]] = []
    for override in overrides:
        key, value = _read_override(override, kind)
        section, _, rest = key.partition(".")
        if section == "cache":
            of_cache.append((rest, value))
        else:
            _apply(tree, section, rest, value)
    if of_cache or isinstance(tree.get("cache"), dict):
        try:
            tree["cache"], lines = override_cache(tree.get("cache"), of_cache)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        for line in lines:
            note(line)
    anchor_paths(tree, Path.cwd())
    config = _validate(tree, file, kind)
    if isinstance(tree.get("parallel"), dict) and "tensor" in tree["parallel"]:
        note("parallel.tensor has no effect, and the next release will refuse it: leave it out")
    return config


def _read_mapping(file: Path) -> dict[str, Any]:
    tree = read_yaml(file, "CONFIG is")
    if not isinstance(tree, dict):
        raise InvalidInput(f"{file} holds {tree!r:.60} instead of sections of keys: see configs/tiny-wan.yaml.")
    return tree


def _read_override(override: str, kind: type[Config]) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InvalidInput(
            f"--set {override} is not of the form key=value: write, for example, --set sampling.steps=20."
        )
    _refuse_unknown(key, f"--set {override}", kind)
    # a colour such as #ff8000, which YAML would take for a comment
    return key, text if text.startswith("#") else parse_yaml(text, f"--set {override}")


def _apply(tree: dict[str, Any], section: str, key: str, value: Any) -> None:
    """Put a value into a section, or in the place of the whole section if the key is empty."""
    if not key:
        tree[section] = spell_out(value, before=tree.get(section)) if section == "parallel" else value
        return
    inner = spell_out(tree.get(section)) if section == "parallel" else tree.get(section)
    if inner is None:
        inner = {}
    if not isinstance(inner, dict):
        raise InvalidInput(f"{section} is {inner!r}, but it should be a section of keys: correct the file.")
    tree[section] = {**inner, key: value}


def _validate(tree: dict[Any, Any], file: Path, kind: type[AnyConfig]) -> AnyConfig:
    for key in _keys_of(tree, kind):
        _refuse_unknown(key, str(file), kind)
    filled = {key: value for key, value in tree.items() if value is not None}  # an empty section is all defaults
    try:
        # as JSON, since strictness of Python values would refuse a list for a tuple and text for a path
        text = json.dumps(filled, default=str)
    except (ValueError, RecursionError, TypeError) as error:  # a list inside itself, a number of thousands of digits
        raise InvalidInput(f"{file} or --set holds a value that cannot be used ({error}): correct it.") from None
    try:
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        _, problem = first_problem(error)
        of_ours = error.errors(include_url=False)[0]["type"] == "value_error"  # a sentence that may hold advice
        advice = "" if of_ours and ": " in problem else f": correct it in {file} or with --set"
        raise InvalidInput(f"{problem}{advice}.") from None


def _keys_of(tree: Mapping[Any, Any], kind: type[Config], prefix: str = "") -> Iterator[str]:
    """The keys that a tree sets, with dots."""
    sections = {key.rpartition(".")[0] for key in valid_keys(kind)}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name in sections:
            yield from _keys_of(value, kind, f"{name}.")
        else:
            yield name


def _refuse_unknown(key: str, origin: str, kind: type[Config]) -> None:
    valid = [*valid_keys(kind), *kind.model_fields]
    if key not in valid and key not in _OLD_KEYS:
        raise InvalidInput(f"Unknown key {key} in {origin}: did you mean {_nearest(key, valid)}?")


def _nearest(key: str, valid: Sequence[str]) -> str:
    """The valid key most like ``key``; its last part weighs most, since sections are easily mistaken."""

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, key, candidate).ratio()
        last = difflib.SequenceMatcher(None, key.split(".")[-1], candidate.split(".")[-1]).ratio()
        return whole + 2 * last

    return max(valid, key=likeness)
