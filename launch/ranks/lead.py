"""Many requests on one loaded model: the first rank chooses each from the results of those before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from dicache.config import CacheConfig
from engine.checks.cache_choice import with_chosen_cache
from engine.engine import Engine
from engine.progress import Progress
from engine.request import GenerationRequest
from parallel.broadcast import object_from_first
from parallel.ranks import set_timeouts

Order = TypeVar("Order")
Outcome = TypeVar("Outcome")


class Lead(Generic[Order, Outcome]):
    """The ranks of one replica with a loaded model.

    The first rank calls :meth:`run` as often as it needs and then :meth:`end`. Every other rank calls :meth:`serve`
    once, which takes part in each run until the first rank has ended. A rank that raises an error does not tell the
    others: their next collective operation fails or times out.
    """

    def __init__(self, engine: Engine, carry_out: Callable[[Engine, Order], Outcome], progress: Progress) -> None:
        """
        Args:
            engine: loaded, with the configuration that all orders start from.
            carry_out: what every rank does with an order; collective over the replica. Its engine reports steps and
                phases to ``progress``, but announces no stages, videos or notes of its own.
            progress: of the work that the orders are part of.
        """
        self._engine = engine.configured(engine.model.config, StepsOnly(progress))
        self._carry_out = carry_out

    @property
    def leads(self) -> bool:
        """Whether this is the first rank of the replica."""
        return self._engine.model.is_first

    def run(self, order: Order) -> Outcome:
        """Carry out an order on all ranks. On the first rank.

        Args:
            order: pickled on its way to the other ranks; not None.

        Returns:
            What ``carry_out`` returned on this rank.
        """
        self._broadcast(order)
        return self._carry_out(self._engine, order)

    def end(self) -> None:
        """Have :meth:`serve` return on the other ranks. On the first rank."""
        self._broadcast(None)

    def serve(self) -> None:
        """Carry out the orders of the first rank until it ends. On every other rank."""
        while (order := self._broadcast(None)) is not None:
            self._carry_out(self._engine, order)

    def _broadcast(self, order: Order | None) -> Order | None:
        model = self._engine.model
        # the first rank may be busy with the last result for longer than a denoise step takes
        set_timeouts(model.config.runtime.load_timeout_seconds)
        received: Order | None = object_from_first(order, model.ranks)
        return received


def with_cache(engine: Engine, cache: CacheConfig, request: GenerationRequest) -> Engine:
    """The same loaded model with another cache section, for a request; what the section leaves open is chosen for it.

    Raises:
        InvalidInput: a calibration that the section names cannot be read.
    """
    model = engine.model
    config = model.config.model_copy(update={"cache": cache})
    return engine.configured(with_chosen_cache(config, request, model.facts))


class StepsOnly(Progress):
    """Progress of one request inside a longer work: passes on steps and phases, and announces no stage."""

    def __init__(self, outer: Progress) -> None:
        self._outer = outer

    @property
    def is_watched(self) -> bool:
        return self._outer.is_watched

    def stage(self, name: str) -> None:
        self._outer.doing(name)

    def doing(self, name: str) -> None:
        self._outer.doing(name)

    def alive(self) -> None:
        self._outer.alive()

    def step(self, index: int, total: int, action: str) -> None:
        self._outer.step(index, total, action)
