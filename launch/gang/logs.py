"""Where the lines go that Ray prints in the driver, and those of a Ray that is started here."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InvalidInput
from launch.process.scratch import make_scratch_folder

_LOG = "driver.log"


@dataclass
class RayLogs:
    """To be ended with :meth:`end`."""

    folder: Path | None
    """A temporary one, for the log and, of a Ray that is started here, all that it writes."""
    file: Path | None
    """For what Ray prints in this process; None if it is printed here."""
    keep: bool = False
    """Whether the folder stays, since something has failed."""

    @classmethod
    def begin(cls, folder: Path | None, file: Path | None) -> RayLogs:
        """
        Args:
            folder: of a Ray that is started here. file: the log, if it is not to be a temporary one.
        """
        if os.environ.get("LOCKSTEP_TRACEBACK"):
            return cls(folder, None, keep=True)
        if folder is None and file is None:
            with suppress(InvalidInput):  # there is no place: then the lines are lost
                folder = make_scratch_folder()
        return cls(folder, file or (folder / _LOG if folder else Path(os.devnull)))

    @property
    def in_words(self) -> str:
        """A sentence on where they are, to follow an error's; empty if they were printed."""
        where = self.folder or self.file
        return f" What Ray wrote is in {where}." if where and self.file else ""

    def end(self) -> None:
        """Remove the temporary folder, unless it is to stay."""
        if self.folder and not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)
