"""The page `docs/configuration.md`: all configuration keys, written from their definitions.

python -m launch.screens.configuration_page > docs/configuration.md
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from engine.config import section_models
from launch.jobs.config import JobConfig

_NAME = "name"
"""The key by which sections of one place are told apart."""
HEAD = """# Configuration keys

Written by `python -m launch.screens.configuration_page`; a test compares it with the code. A key stands in the YAML
file or in `--set KEY=VALUE`; `lockstep config FILE` prints the resolved values.
"""


def reference() -> str:
    """Markdown: a table of keys, values, defaults and reasons for each section."""
    lines = [HEAD]
    for section, field in JobConfig.model_fields.items():
        assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        lines += [f"## {section}\n", *([f"{field.description}\n"] if field.description else [])]
        lines += ["| key | value | default | |", "|---|---|---|---|"]
        lines += [*_rows(section, field.annotation), ""]
        for name, inner in field.annotation.model_fields.items():
            if _is_choice(inner.annotation):
                lines += _choice(f"{section}.{name}", section_models(inner.annotation))
    return "\n".join(lines)


def _rows(section: str, model: type[BaseModel], first: str = "") -> Iterator[str]:
    defaults: dict[str, Any] = {}  # some defaults depend on those before
    for name, field in model.model_fields.items():
        default = "required"
        if not field.is_required():
            defaults[name] = field.get_default(call_default_factory=True, validated_data=defaults)
            default = f"`{_plain(defaults[name])}`"
        if name == _NAME and first:
            continue
        key = f"`{section}.{name}`"
        yield f"| {first}{key} | {_values(field.annotation)} | {default} | {field.description or ''} |"


def _is_choice(annotation: Any) -> bool:
    """Whether a field holds one of several sections, which a name in it tells apart."""
    return not isinstance(annotation, type) and bool(section_models(annotation))


def _choice(key: str, models: Sequence[type[BaseModel]]) -> Iterator[str]:
    """The keys of all these sections in one table."""
    kind = key.rpartition(".")[2]
    names = [str(model.model_fields[_NAME].default) for model in models]
    yield f"### {key}\n"
    yield (
        f"`{key}: NAME` is short for `{key}: {{name: NAME}}`; `{key}.{_NAME}` may be left out where it is the method's "
        f"own {kind}. These keys belong to one {kind} each, and are refused with another:\n"
    )
    yield f"| {kind} | key | value | default | |"
    yield "|---|---|---|---|---|"
    for name, model in zip(names, models, strict=True):
        yield from _rows(key, model, f"{name} | ")
    without = [name for name, model in zip(names, models, strict=True) if list(model.model_fields) == [_NAME]]
    yield f"\nNo keys of their own have {', '.join(without)}.\n"


def _values(annotation: Any) -> str:
    """The values of a type in words."""
    if isinstance(annotation, type):
        return _TYPES[annotation]
    if _is_choice(annotation):
        names = (f"`{model.model_fields[_NAME].default}`" for model in section_models(annotation))
        return f"{', '.join(names)} or a section"
    parts = get_args(annotation)
    if all(isinstance(part, str) for part in parts):
        return ", ".join(f"`{part}`" for part in parts)
    if get_origin(annotation) is dict:
        return "mapping of paths"
    if get_origin(annotation) is tuple:
        of_mappings = isinstance(parts[0], type) and issubclass(parts[0], BaseModel)
        return f"list of {'mapping' if of_mappings else _values(parts[0])}s"
    if get_origin(annotation) is Annotated:
        return _values(parts[0])
    return " or ".join("null" if part is type(None) else _values(part) for part in parts)


_TYPES: dict[type, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
}


def _plain(value: Any) -> str:
    if isinstance(value, BaseModel):
        return str(getattr(value, _NAME))
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    print(reference(), end="")
