"""A hash of a model that is made without reading all of its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.models.sums import SUMS

_SAMPLE_BYTES = 1 << 16
_NOT_THE_MODEL = (".py", ".pyc", ".md")
"""Files that do not change the model, and are left out, as the list of sums is."""
_SMALL = (".json", ".txt", ".model")


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file, or of all files in a folder. Configurations, tokenizers and indexes are hashed whole; of
    weights the size, the first and the last 64 KiB. Hidden files, Python code, Markdown and sums are left out.

    Raises:
        OSError: a file cannot be read.
    """
    root = Path(path)
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    digest = hashlib.sha256()
    for file in files:
        relative = file.relative_to(root)
        if (
            file.suffix not in _NOT_THE_MODEL
            and file.name != SUMS
            and file.is_file()
            and not any(part.startswith(".") for part in relative.parts)
        ):
            digest.update(f"{relative.as_posix()} {file.stat().st_size}\n".encode())
            digest.update(_sample(file))
    return digest.hexdigest()


def _sample(file: Path) -> bytes:
    if file.suffix in _SMALL:
        return file.read_bytes()
    with file.open("rb") as stream:
        start = stream.read(_SAMPLE_BYTES)  # of safetensors: names and shapes, then the first numbers
        stream.seek(max(0, file.stat().st_size - _SAMPLE_BYTES))
        return start + stream.read(_SAMPLE_BYTES)
