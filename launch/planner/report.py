"""Writes a plan as JSON."""

from __future__ import annotations

from pathlib import Path

from engine.errors import InvalidInput
from engine.storage.files import StagedFiles
from launch.planner.document import PlanDocument


def write_report(document: PlanDocument, path: Path) -> None:
    """Write the document, all or nothing; an older file is replaced.

    Raises:
        InvalidInput: the file cannot be written; one sentence.
    """
    if path.is_dir():
        raise InvalidInput(f"--report is {str(path)!r}, which is a folder: give a file.")
    try:
        with StagedFiles() as files:
            text = document.model_dump_json(by_alias=True, indent=1) + "\n"
            files.stage(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"--report is {str(path)!r}, which cannot be written ({error.strerror or error}): choose another."
        ) from None
