"""In what two measurements differ besides their times."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from engine.errors import InvalidInput
from launch.bench.document import BenchDocument

_SAME_WORK = ("height", "width", "frames", "steps")


def refuse_unlike(a: BenchDocument, b: BenchDocument) -> None:
    """
    Raises:
        InvalidInput: the two made videos of different sizes, or with different models or numbers of steps, so that a
            ratio of their times would say nothing.
    """
    given, other = _config(a), _config(b)
    models = [PurePath(str(_section(each, "model").get("path", ""))).name for each in (given, other)]
    if models[0] != models[1]:
        raise InvalidInput(f"The models differ, {models[0]!r} and {models[1]!r}: compare measurements of one model.")
    for key in _SAME_WORK:
        values = [_section(each, "sampling").get(key) for each in (given, other)]
        if values[0] != values[1]:
            raise InvalidInput(
                f"sampling.{key} differs, {values[0]} and {values[1]}: compare measurements of the same work."
            )


def differences(a: BenchDocument, b: BenchDocument) -> list[str]:
    """A line for each difference that may explain one of the times."""
    return [*_keys(a, b), *_versions(a, b), *_machines(a, b)]


def _keys(a: BenchDocument, b: BenchDocument) -> Iterator[str]:
    given, other = _flat(_config(a)), _flat(_config(b))
    for key in sorted(given.keys() | other.keys()):
        if key in ("model.path", "job.name") or given.get(key) == other.get(key):
            continue
        yield f"{key} differs: {_shown(given.get(key))} and {_shown(other.get(key))}."
    if a.layout != b.layout:
        yield f"The layout differs: {_layout(a)} and {_layout(b)}."


def names_in_turns(document: BenchDocument) -> tuple[str, str]:
    """Of what took turns with a run, and of the run, for people."""
    builds = _section(document.made_with, "builds")
    if not builds:
        return "against", "as configured"
    against, given = (_build_name(_section(builds, key)) for key in ("against", "given"))
    return against, given


def differences_in_turns(document: BenchDocument) -> Iterator[str]:
    """A line for each difference between two builds that may explain one of the times; none of two configurations."""
    builds = _section(document.made_with, "builds")
    if document.against is None or not builds:
        return
    versions = _flat(_section(_section(builds, "against"), "versions"))
    yield from _unlike_versions(versions, _flat(_section(document.made_with, "versions")))
    made = {(sample.round, sample.prompt): sample.latents_sha256 for sample in document.against.samples}
    pairs = [(made.get((each.round, each.prompt)), each.latents_sha256) for each in document.samples]
    if other := sum(a != b for a, b in pairs):
        yield f"The two builds do not make the same video: {other} of {len(pairs)} have other latents."


def _build_name(build: Mapping[str, Any]) -> str:
    commit, plus, changes = str(build.get("commit") or "").partition("+")
    known = [f"the build in {build.get('folder')}", str(build.get("version"))]
    return ", ".join([*known, f"{commit[:12]}{plus}{changes}"] if commit else known)


def _versions(a: BenchDocument, b: BenchDocument) -> Iterator[str]:
    given, other = (_flat(_section(each.made_with, "versions")) for each in (a, b))
    yield from _unlike_versions(given, other)


def _unlike_versions(given: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(given.keys() | other.keys()):
        if given.get(name) != other.get(name):
            yield f"The version of {name} differs: {_shown(given.get(name))} and {_shown(other.get(name))}."


def _machines(a: BenchDocument, b: BenchDocument) -> Iterator[str]:
    devices = [sorted({rank.device for rank in each.ranks}) for each in (a, b)]
    if devices[0] != devices[1]:
        yield f"The devices differ: {', '.join(devices[0])} and {', '.join(devices[1])}."
    hosts = [sorted({rank.host for rank in each.ranks}) for each in (a, b)]
    if hosts[0] != hosts[1]:
        yield f"The hosts differ: {', '.join(hosts[0])} and {', '.join(hosts[1])}."


def _config(document: BenchDocument) -> Mapping[str, Any]:
    return _section(document.made_with, "config")


def _section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = mapping.get(key)
    return section if isinstance(section, dict) else {}


def _flat(section: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _layout(document: BenchDocument) -> str:
    return " × ".join(f"{name} {degree}" for name, degree in document.layout.items())
