"""Files that appear all together and whole, or not at all."""

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self


class StagedFiles:
    """Files written under temporary names, which take their places when the block ends well.

    All of them are on the disk before the first is renamed, so a full disk or an error half-way leaves what was
    there before, and nothing else.
    """

    def __init__(self) -> None:
        self._temporaries: dict[Path, Path] = {}

    def stage(self, path: Path) -> Path:
        """An empty temporary file beside ``path``, to be written instead of it; missing folders are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        self._temporaries[path] = Path(name)
        return self._temporaries[path]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._commit()
        finally:
            for temporary in self._temporaries.values():
                temporary.unlink(missing_ok=True)

    def _commit(self) -> None:
        for temporary in self._temporaries.values():
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
            sync(temporary)
        for path, temporary in self._temporaries.items():
            temporary.replace(path)
        for folder in {path.parent for path in self._temporaries}:
            sync(folder)  # else a power cut may undo the renames


def numbered(output: Path, count: int) -> list[Path]:
    """One path a video: "out.mp4" alone, or out-0.mp4, out-1.mp4 and so on for several."""
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{i}") for i in range(count)]


def sync(path: Path) -> None:
    """Have a file or folder on the disk, so that a power cut does not undo what was done to it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
