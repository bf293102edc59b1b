"""The page `docs/configuration.md`: all configuration keys, written from their definitions.

python -m launch.screens.configuration_page > docs/configuration.md
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from launch.jobs.config import JobConfig

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
    return "\n".join(lines)


def _rows(section: str, model: type[BaseModel]) -> Iterator[str]:
    defaults: dict[str, Any] = {}  # some defaults depend on those before
    for name, field in model.model_fields.items():
        default = "required"
        if not field.is_required():
            defaults[name] = field.get_default(call_default_factory=True, validated_data=defaults)
            default = f"`{_plain(defaults[name])}`"
        yield f"| `{section}.{name}` | {_values(field.annotation)} | {default} | {field.description or ''} |"


def _values(annotation: Any) -> str:
    """The values of a type in words."""
    if isinstance(annotation, type):
        return _TYPES[annotation]
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
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    print(reference(), end="")
