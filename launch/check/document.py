"""The report of a check as JSON, which is what a user attaches to a bug report: nothing in it names a person, a machine
or a folder."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.storage.files import StagedFiles
from launch.check.finding import State

_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/'\":,;()\[\]]+/)+")


class CheckedLine(BaseModel):
    """A line of the report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    state: State
    figure: str
    reason: str
    seconds: float = Field(0.0, description="That the line took.")


class CheckDocument(BaseModel):
    """`lockstep check --report FILE`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal[1] = Field(1, alias="schema")
    lines: Sequence[CheckedLine]
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    command: str
    ranks: int
    nodes: int
    seconds: float
    complaint: str = Field("", exclude=True, description="Why the report was not written; none of the report's.")

    @property
    def short(self) -> list[CheckedLine]:
        """The lines that fall short."""
        return [line for line in self.lines if line.state is State.FALLS_SHORT]


def write_document(document: CheckDocument, path: Path) -> None:
    """Write the report; an older file is replaced.

    Raises:
        OSError: it cannot be written.
    """
    with StagedFiles() as files:
        files.stage(path).write_text(document.model_dump_json(indent=1, by_alias=True) + "\n", encoding="utf-8")


def without_names(text: str, others: Iterable[str] = ()) -> str:
    """The text without folders, host names and the user's name, whatever a library has put into its message.

    Args:
        others: more words to leave out.
    """
    text = _PATH.sub("…/", text)
    hidden = [socket.gethostname(), socket.gethostname().partition(".")[0], os.path.basename(os.path.expanduser("~"))]
    with suppress(Exception):  # a container may have no name for its user
        hidden.append(getpass.getuser())
    for word in (*hidden, *others):
        if len(word) > 2 and word != "root":
            text = re.sub(rf"\b{re.escape(word)}\b", "…", text)
    return text
