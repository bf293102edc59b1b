"""What takes part: a YAML file with a list of methods, each of a library and with the settings to run it at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from engine.errors import InvalidInput, first_problem
from engine.yaml_file import read_yaml

Library = Literal["diffusers", "cache-dit", "lockstep"]
LIBRARIES: tuple[Library, ...] = ("lockstep", "diffusers", "cache-dit")
SHIPPED = Path(__file__).with_name("peers.yaml")


class Entry(BaseModel):
    """One method of one library."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    library: Library
    config: str = ""
    """The configuration class, for diffusers."""
    always: Mapping[str, Any] = Field(default_factory=dict)
    """Keys that all settings share: of the class, of cache-dit's ``DBCacheConfig``, or of Lockstep's section ``cache``
    with dots."""
    settings: Sequence[Mapping[str, Any]] = Field(min_length=1)
    """Keys of each setting, from the mildest to the boldest."""
    several_ranks: str
    """What is known of the method on several ranks."""
    note: str = ""
    """What to know about its row."""

    def label(self, setting: Mapping[str, Any]) -> str:
        """The setting in words."""
        return ", ".join(f"{key.rpartition('.')[2]} {_shown(value)}" for key, value in setting.items()) or "as it comes"


def read_entries(file: Path) -> list[Entry]:
    """The entries of a file.

    Raises:
        InvalidInput: it cannot be read, or an entry is not one; one sentence.
    """
    try:
        entries = TypeAdapter(list[Entry]).validate_python(read_yaml(file, "--methods is"))
    except ValidationError as error:
        _, problem = first_problem(error)
        raise InvalidInput(f"--methods is {str(file)!r}: {problem.rstrip('.')}.") from None
    names = [(entry.library, entry.name) for entry in entries]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InvalidInput(f"--methods is {str(file)!r}, which has {' '.join(repeated)} twice: rename one.")
    return entries


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
