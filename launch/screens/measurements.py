"""What `lockstep sweep` and `lockstep calibrate` print when they have ended."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from launch.sweep.run import JSON_FILE, PICTURE_FILE, TABLE_FILE, Written


def print_sweep(written: Written, stream: IO[str]) -> None:
    """Print the table of a sweep, and where its files are."""
    print(written.table, file=stream)
    print(f"written to {written.folder}: {JSON_FILE}, {TABLE_FILE}, {PICTURE_FILE}", file=stream)


def print_calibration(path: Path, stream: IO[str]) -> None:
    """Print where the file of a calibration is, and how to use it."""
    print(f"calibration  {path}", file=stream)
    print(f"use it with  --set cache.method=calibrated --set cache.calibration={path}", file=stream)
