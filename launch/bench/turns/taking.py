"""Turns of the other build, as all ranks of this one take them: they sleep until it is done."""

from __future__ import annotations

from launch.bench.turns.other import OtherBuild
from launch.bench.turns.relay import Relay, of_the_first


class OtherTurns:
    """Collective over the job."""

    def __init__(self, other: OtherBuild | None, relay: Relay) -> None:
        """
        Args:
            other: on the first rank.
        """
        self._other = other
        self._relay = relay

    def let(self, what: str, **fields: int) -> None:
        """Have the other build carry out an order, and wait for it.

        Raises:
            InvalidInput, RankFailure: on the first rank: it has ended, with its own words.
        """
        if self._other is not None:
            self._other.order(what, **fields)
        self._relay.from_first(self._other.answered if self._other is not None else of_the_first)
