"""Messages from a server to the `cluster up` that waits for it: lines of JSON in a pipe, until it is ready or has
failed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import IO, Any


class Reply:
    """The server's end of the pipe. That the other end is closed is no error."""

    def __init__(self, descriptor: int | None) -> None:
        """
        Args:
            descriptor: of the pipe; None if no process waits.
        """
        self._descriptor = descriptor

    @property
    def is_open(self) -> bool:
        """Whether somebody waits for the next message."""
        return self._descriptor is not None

    def tell(self, kind: str, **values: Any) -> None:
        """Send one message."""
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, (json.dumps({"kind": kind, **values}) + "\n").encode())
        except OSError:
            self.close()

    def close(self) -> None:
        """Send no more messages."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def listen(pipe: IO[str]) -> Iterator[dict[str, Any]]:
    """The messages, until the server closes the pipe or ends."""
    for line in pipe:
        yield json.loads(line)
