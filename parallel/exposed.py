"""The seconds of attention over ranks that its kernel does not cover.

The exchanges are inside xDiT's USP, which calls the kernel once for each chunk that a ring passes on. What runs before
the first call and after the last one is the all-to-all of Ulysses, with the copies that lay tensors out for it. What
runs between two calls is the wait for the ring's next chunk, and the addition of the last chunk's output to the sum.
The part of a ring's transfer that runs while a kernel runs costs no time and is not counted. Where a ring has no
Ulysses beside it, all counts as the ring's.
"""

from contextlib import ExitStack
from typing import Any, Self

from torch import Tensor

from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter


class ExposedExchange:
    """A kernel for one call of USP, which runs inside the context; the meter's clock runs outside the kernel."""

    def __init__(self, kernel: Any, meter: CollectiveMeter, degrees: Degrees) -> None:
        """
        Args:
            kernel: called with query, key and value, all [batch, heads, tokens, head_dim].
        """
        self._kernel = kernel
        self._meter = meter
        self._around = "all_to_all" if degrees.ulysses > 1 else "ring"
        self._calls_left = degrees.ring
        self._lap = ExitStack()

    def __enter__(self) -> Self:
        self._lap.enter_context(self._meter.lap(self._around))
        return self

    def __exit__(self, *_: object) -> None:
        self._lap.close()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Any:
        """As the kernel."""
        self._lap.close()
        result = self._kernel(query, key, value)
        self._calls_left -= 1
        self._lap.enter_context(self._meter.lap("ring" if self._calls_left else self._around))
        return result
