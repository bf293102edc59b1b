"""Files that are whole or not there at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well.

    What was at ``path`` stays untouched until then; on an error the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def numbered(output: Path, count: int) -> list[Path]:
    """One path a video: "out.mp4" alone, or out-0.mp4, out-1.mp4 and so on for several."""
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{i}") for i in range(count)]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
