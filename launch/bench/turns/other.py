"""The processes of the build that takes turns with this one, as this one's first rank leads them."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.errors import InvalidInput, RankFailure
from launch.bench.turns.build import Build
from launch.bench.turns.line import KEY_VARIABLE, PROTOCOL, Line, LineClosed

_LOOK_SECONDS = 0.5
_GREETING_SECONDS = 10.0
_ENDING_SECONDS = 10.0
"""For a build to end by itself, or of SIGTERM; ranks end within two."""
_OURS = "lockstep: "


class OtherBuild:
    """A context manager: the processes live no longer than its block, nor than this process."""

    def __init__(self, build: Build, arguments: Sequence[str], log: Path) -> None:
        """
        Args:
            arguments: of its `lockstep`, but for what names this process.
            log: a file for what it prints, in a folder that is there.
        """
        self._build = build
        self._arguments = arguments
        self._log = log
        self._key = secrets.token_hex(16)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._process: subprocess.Popen[bytes] | None = None
        self._starter: Line | None = None
        self._rank: Line | None = None
        self._ordered = ""

    def __enter__(self) -> Self:
        """Start it, and wait until it has checked its work.

        Raises:
            InvalidInput: it refuses the work, or is another build than the one that was named.
            RankFailure: it has failed.
        """
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDING_SECONDS)
        self._end()

    def order(self, what: str, **fields: int) -> None:
        """Have it do something: :mod:`launch.bench.turns.line` has the orders.

        Raises:
            InvalidInput, RankFailure: it has ended; with its own words.
        """
        self._ordered = what
        line = self._starter if what == "load" else self._rank
        assert line is not None, "it has called"
        try:
            line.send(do=what, **fields)
        except LineClosed:
            raise self._ended() from None

    def answered(self, seconds: float) -> bool | None:
        """Wait for so long until it has done what it was ordered; None where it has not.

        Raises:
            InvalidInput, RankFailure: it has ended; with its own words.
        """
        deadline = time.monotonic() + seconds
        while self._rank is None:
            if time.monotonic() > deadline:
                return None
            self._rank = self._called()
        try:
            message = self._rank.receive(max(0.0, deadline - time.monotonic()))
        except LineClosed:
            raise self._ended() from None
        if message is None:
            return None
        if message.get("done") != self._ordered:
            raise RankFailure(f"The build in {self._build.folder} was told to {self._ordered}, and answered {message}.")
        return True

    def _start(self) -> None:
        address = f"127.0.0.1:{self._server.getsockname()[1]}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._build.command(*self._arguments, f"--turns={address}"),
                env=self._build.environment(os.environ) | {KEY_VARIABLE: self._key},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which ends the other one
            )
        while self._starter is None:
            self._starter = self._called()

    def _called(self) -> Line | None:
        """A call that has its key; None where none came just now."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise self._ended()
        self._server.settimeout(_LOOK_SECONDS)
        try:
            line = Line(self._server.accept()[0])
        except TimeoutError:
            return None
        try:
            greeting = line.receive(_GREETING_SECONDS) or {}
        except LineClosed:
            greeting = {}
        if not secrets.compare_digest(str(greeting.get("key")).encode(), self._key.encode()):
            line.close()
            return None
        self._check(greeting)
        return line

    def _check(self, greeting: dict[str, Any]) -> None:
        if (spoken := greeting.get("turns")) != PROTOCOL:
            raise InvalidInput(
                f"The build in {self._build.folder} takes turns by protocol {spoken!r}, and this one by {PROTOCOL}: "
                "measure each by itself, and use --compare."
            )
        if self._starter is None and Path(str(greeting.get("folder"))) != self._build.folder:
            raise InvalidInput(
                f"The build in {self._build.folder} was to be measured, but its interpreter {self._build.python} "
                f"imports the one in {greeting.get('folder')}: remove its .venv, or install it there."
            )

    def _ended(self) -> InvalidInput | RankFailure:
        """Why it has ended."""
        assert self._process is not None
        try:
            code = self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return RankFailure(f"The build in {self._build.folder} has given up its turns: {self._last_words()}")
        if code == 2:
            return InvalidInput(f"The build in {self._build.folder} refuses to take turns: {self._last_words()}")
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return RankFailure(f"The build in {self._build.folder} has ended {how}: {self._last_words()}")

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        told = [line.strip() for line in lines if line.strip()]
        own = [line.removeprefix(_OURS) for line in told if line.startswith(_OURS)]
        return (own or told or ["it said nothing."])[-1]

    def _end(self) -> None:
        """Leave none of its processes: its ranks die with the one that started them."""
        self._server.close()
        for line in (self._starter, self._rank):
            if line is not None:
                line.close()
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
