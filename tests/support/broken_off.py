"""Requests that are broken off where a test wants it, to be resumed."""

from engine.progress import Progress


class BrokenOff(Exception):
    """Raised inside the engine."""


class BreaksOff(Progress):
    """After so many steps; or at a stage, as the last one, in which files are written."""

    def __init__(self, after: int | str | None) -> None:
        self._after = after

    def stage(self, name: str) -> None:
        if name == self._after:
            raise BrokenOff

    def step(self, index: int, total: int, action: str) -> None:
        if index + 1 == self._after:
            raise BrokenOff
