"""What commands that measure print when they have ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from launch.process.printable import printable


@dataclass(frozen=True)
class TableResults:
    """What a sweep, or MLPerf's test, has written into its folder."""

    files: Sequence[str]
    """Names of files in the folder."""
    table: str
    """Markdown."""


def print_table(folder: Path, results: TableResults, stream: IO[str]) -> None:
    """Print the table, and where the files are."""
    for line in results.table.split("\n"):
        print(printable(line), file=stream)
    print(printable(f"written to {folder}: {', '.join(results.files)}"), file=stream)


def print_calibration(path: Path, stream: IO[str]) -> None:
    """Print where the file of a calibration is, and how to use it."""
    print(printable(f"calibration  {path}"), file=stream)
    print(printable(f"use it with  --set cache.method=calibrated --set cache.calibration={path}"), file=stream)
