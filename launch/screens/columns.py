"""Which columns of a table fit into a width, and how wide each is. What matters most is always there and whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

GAP = 2
"""Spaces between two columns."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    cells: Sequence[Text]
    """In one line each, without control characters."""
    right: bool = False
    """Whether the cells are aligned to the right, as numbers are."""
    order: int = 0
    """Columns with 0 are always shown; of the others those with a lower number are shown first."""
    least: int | None = None
    """Cells may be cut down to that many columns of the terminal; None for those that would be useless when cut."""

    @property
    def natural(self) -> int:
        """The width at which nothing is cut."""
        return max(cell_len(self.name), *(cell.cell_len for cell in self.cells), 0)

    @property
    def is_empty(self) -> bool:
        return not any(cell.plain for cell in self.cells)


def fit(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """The columns to show, in their order, each with its width; together they are at most ``width`` wide, unless those
    that are always shown are wider.

    Columns without any text are left out, unless they are always shown.
    """
    shown = [column for column in columns if not column.order]
    room = width - sum(column.natural + GAP for column in shown) + GAP
    for column in sorted((each for each in columns if each.order and not each.is_empty), key=lambda each: each.order):
        needed = _least(column) + GAP
        if needed <= room:
            shown.append(column)
            room -= needed
    widths = {column.name: column.natural if not column.order else _least(column) for column in shown}
    for _ in range(room):  # what is left makes the narrowest of those that are cut wider, so that they share it
        cut = [column for column in shown if widths[column.name] < column.natural]
        if not cut:
            break
        widths[min(cut, key=lambda column: widths[column.name]).name] += 1
    return [(column, widths[column.name]) for column in columns if column in shown]


def _least(column: Column) -> int:
    if column.least is None:
        return column.natural
    return min(column.natural, max(column.least, cell_len(column.name)))
