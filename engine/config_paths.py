"""Relative paths in a configuration, made absolute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.config import HUB_ID
from engine.errors import InvalidInput
from engine.storage.files import absolute

# keys whose value names a file or folder, and may be relative
_PATH_KEYS = (("model", "path"), ("cache", "replay"), ("cache", "calibration"))
# keys whose value is a list of mappings, of which one key does
_LISTED_PATH_KEYS = (("model", "loras", "path"),)
# keys whose value is a mapping of which every key does
_MAPPED_PATH_KEYS = (("model", "single_files"),)


def anchor_paths(tree: dict[str, Any], folder: Path, only_existing: bool = False) -> None:
    """Make the paths in a tree of sections and keys absolute, in place. Keys that hold no path are left as they are.

    Args:
        folder: of relative paths.
        only_existing: leave a path as it is if nothing is there.

    Raises:
        InvalidInput: a path begins with the home folder of an unknown user.
    """
    for values, key in _path_slots(tree):
        if not isinstance(values, dict) or not isinstance(values.get(key), str) or not values[key]:
            continue
        anchored = Path.cwd() / folder / expand_home(Path(values[key]))
        if _exists(anchored) or not (only_existing or _may_be_hub_id(tree, values, key)):
            values[key] = str(absolute(anchored))


def _path_slots(tree: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """Where paths may stand: what should be a mapping, and a key of it."""
    for section, key in _PATH_KEYS:
        yield tree.get(section), key
    for section, key, inner in _LISTED_PATH_KEYS:
        values = tree.get(section)
        listed = values.get(key) if isinstance(values, dict) else None
        if isinstance(listed, list):
            yield from ((item, inner) for item in listed)
    for section, key in _MAPPED_PATH_KEYS:
        values = tree.get(section)
        mapped = values.get(key) if isinstance(values, dict) else None
        if isinstance(mapped, dict):
            yield from ((mapped, inner) for inner in mapped)


def _may_be_hub_id(tree: dict[str, Any], values: dict[str, Any], key: str) -> bool:
    return values is tree.get("model") and key == "path" and HUB_ID.fullmatch(values[key]) is not None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def expand_home(path: Path) -> Path:
    """The path with "~" replaced by the home folder.

    Raises:
        InvalidInput: there is no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError:  # "~" of an unknown user
        raise InvalidInput(f"{path} begins with a home folder that does not exist: write the path in full.") from None
