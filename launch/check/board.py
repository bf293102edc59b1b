"""What the agents of one check tell each other: the port of the workers' store, and which line has ended a worker."""

from __future__ import annotations

from typing import Protocol


class Board(Protocol):
    """Keys that are set once. :class:`torch.distributed.Store` has these methods."""

    def set(self, key: str, value: str) -> None: ...

    def check(self, keys: list[str]) -> bool: ...

    def get(self, key: str) -> bytes: ...


class OwnBoard:
    """The board of an agent that has all ranks to itself."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self._values[key] = value

    def check(self, keys: list[str]) -> bool:
        return all(key in self._values for key in keys)

    def get(self, key: str) -> bytes:
        return self._values[key].encode()
