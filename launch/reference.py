"""The reference of all configuration keys, written from their definitions.

python -m launch.reference > docs/configuration.md
"""

import json
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from engine.config import Config

HEAD = """# Configuration keys

Written by `python -m launch.reference`; a test compares it with the code. A key stands in the YAML file or in
`--set KEY=VALUE`; `lockstep config FILE` prints the resolved values.
"""


def reference() -> str:
    """Markdown: a table of keys, values, defaults and reasons for each section."""
    lines = [HEAD]
    for section, field in Config.model_fields.items():
        assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        lines += [f"## {section}\n", *([f"{field.description}\n"] if field.description else [])]
        lines += ["| key | value | default | |", "|---|---|---|---|"]
        lines += [*_rows(section, field.annotation), ""]
    return "\n".join(lines)


def _rows(section: str, model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        default = "required" if field.default is PydanticUndefined else f"`{_plain(field.default)}`"
        yield f"| `{section}.{name}` | {_values(field.annotation)} | {default} | {field.description or ''} |"


def _values(annotation: Any) -> str:
    """A type as a person would say it."""
    if isinstance(annotation, type):
        return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}.get(
            annotation.__name__, "list of whole numbers"
        )
    parts = get_args(annotation)
    if all(isinstance(part, str) for part in parts):
        return ", ".join(f"`{part}`" for part in parts)
    if get_origin(annotation) is dict:
        return "mapping of paths"
    if get_origin(annotation) is tuple:
        of_mappings = isinstance(parts[0], type) and issubclass(parts[0], BaseModel)
        return "list of mappings" if of_mappings else "list of whole numbers"
    return " or ".join("null" if part is type(None) else _values(part) for part in parts)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    print(reference(), end="")
