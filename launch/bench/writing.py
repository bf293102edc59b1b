"""Writes the results of a bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launch.bench.document import BenchDocument
from launch.bench.folder import TABLE_FILE, BenchFolder
from launch.bench.pictures import draw
from launch.bench.reading import JSON_FILE
from launch.bench.tables import to_markdown


@dataclass(frozen=True)
class BenchResults:
    """What a bench has written into its folder."""

    files: list[str]
    document: BenchDocument


def write_results(folder: BenchFolder, document: BenchDocument, others: Sequence[str] = ()) -> BenchResults:
    """Write the tables, the pictures and, last, the document.

    Args:
        others: files that are in the folder already.

    Raises:
        OSError: the disk is full, or fails.
    """
    pictures = draw(document, folder.path)
    folder.write({TABLE_FILE: to_markdown(document), JSON_FILE: to_json(document)})
    return BenchResults([JSON_FILE, TABLE_FILE, *pictures, *others], document)


def to_json(document: BenchDocument) -> str:
    """The text of `bench.json`."""
    return document.model_dump_json(by_alias=True, indent=1) + "\n"
