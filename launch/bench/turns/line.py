"""How two builds talk while they take turns: lines of JSON over a connection of this machine. Protocol 1.

The measuring build listens on 127.0.0.1 and starts the other as ``lockstep bench CONFIG --output FOLDER ... --turns
127.0.0.1:PORT``, with a key in LOCKSTEP_TURNS_KEY. The other one calls twice, and stays on both lines until it ends:

* what starts its ranks, once the work is checked: ``{"key": KEY, "turns": 1, "folder": ITS ROOT}``. It is then told
  ``{"do": "load"}``, and starts the ranks.
* their first rank: ``{"key": KEY, "turns": 1}``. It says ``{"done": "load"}`` when the model is loaded, and waits for
  orders: ``{"do": "warm_up"}``, ``{"do": "video", "round": 0, "prompt": 0}``, and at last ``{"do": "write"}``, which
  writes ``bench.json`` of schema 1 into FOLDER and ends it. Each is answered by ``{"done": ...}`` with its name.

Between an order's answer and the next order it does nothing. Whoever loses the line ends. Builds of other releases rely
on all of this: other orders and keys may be added, with a higher number where one side could not do without them.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any, Self

from engine.errors import InvalidInput, RankFailure

PROTOCOL = 1
KEY_VARIABLE = "LOCKSTEP_TURNS_KEY"
_LONGEST_LINE_BYTES = 1 << 16


class LineClosed(RankFailure):
    """The other end has closed the connection, or sent what is no line of this protocol."""


class Line:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._read = b""

    def close(self) -> None:
        self._connection.close()

    def send(self, **message: Any) -> None:
        """
        Raises:
            LineClosed: nobody is at the other end.
        """
        try:
            self._connection.settimeout(None)
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            raise LineClosed("The build that takes turns with this one has ended.") from None

    def receive(self, seconds: float | None = None) -> dict[str, Any] | None:
        """The next message; None where none came in time. The wait is the system's, and takes no processor.

        Args:
            seconds: to wait; None: without a limit.

        Raises:
            LineClosed: nobody is at the other end, or it does not speak this protocol.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._read:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            try:
                self._connection.settimeout(left)
                received = self._connection.recv(4096)
            except TimeoutError:
                return None
            except OSError:
                received = b""
            if not received or len(self._read) > _LONGEST_LINE_BYTES:
                raise LineClosed("The build that takes turns with this one has ended.")
            self._read += received
        text, _, self._read = self._read.partition(b"\n")
        try:
            message = json.loads(text)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise LineClosed("The build that takes turns with this one has sent what is no line of the protocol.")
        return message


@dataclass(frozen=True)
class Caller:
    """Where the other build calls the one that measures."""

    port: int
    key: str

    @classmethod
    def of(cls, address: str) -> Self:
        """From ``--turns`` and the environment.

        Raises:
            InvalidInput: they are not what a measuring build gives.
        """
        host, _, port = address.partition(":")
        key = os.environ.get(KEY_VARIABLE, "")
        if host != "127.0.0.1" or not port.isdecimal() or not 0 < int(port) < 1 << 16 or not key:
            raise InvalidInput(
                f"--turns is {address!r}, which only a build that measures another gives it: use --against-build."
            )
        return cls(int(port), key)

    def call(self, **greeting: Any) -> Line:
        """A line to the measuring build.

        Raises:
            LineClosed: it is not there any more.
        """
        try:
            line = Line(socket.create_connection(("127.0.0.1", self.port)))
        except OSError:
            raise LineClosed("The build that measures this one has ended.") from None
        line.send(key=self.key, turns=PROTOCOL, **greeting)
        return line
