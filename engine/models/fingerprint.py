"""Whether two models are the same, without reading gigabytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SAMPLE_BYTES = 1 << 16
_NOT_THE_MODEL = (".py", ".pyc", ".md")
"""What may lie beside it, and comes and goes."""
_SMALL = (".json", ".txt", ".model")


def fingerprint(path: str | Path) -> str:
    """A hash of a file, or of a folder's files: of configurations, tokenizers and lists of shards all of it, of weights
    the size, the header and the end. Programs and their traces are left out, and what is written for people.

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
            and file.is_file()
            and not any(part.startswith(".") for part in relative.parts)
        ):
            digest.update(f"{relative.as_posix()} {file.stat().st_size}\n".encode())
            digest.update(_looked_at(file))
    return digest.hexdigest()


def _looked_at(file: Path) -> bytes:
    if file.suffix in _SMALL:
        return file.read_bytes()
    with file.open("rb") as stream:
        start = stream.read(_SAMPLE_BYTES)  # of safetensors: names and shapes, then the first numbers
        stream.seek(max(0, file.stat().st_size - _SAMPLE_BYTES))
        return start + stream.read(_SAMPLE_BYTES)
