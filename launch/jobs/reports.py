"""Reads run reports that earlier runs have left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_report(file: Path) -> dict[str, Any]:
    """The report in a file; empty if there is none, or something else."""
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}
