"""Sums over tokens: what a gate or an estimator can ask to be measured.

A sum is declared as data. Each rank evaluates it over its own tokens (:mod:`dicache.evaluation`), and the partial sums
of the ranks add up to the sum over the whole sequence. A new kind of sum is one class with ``operands`` and ``of``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from dicache.steps import History

if TYPE_CHECKING:  # the configuration imports the gates, and need not wait for torch
    from torch import Tensor

StepSignal = Literal["probe", "timestep_embedding", "timestep_modulation", "modulated_input", "latents"]
ComputedSignal = Literal["probe_residual", "computed_latents", "velocity"]
Signal = StepSignal | ComputedSignal
STEP_SIGNALS: tuple[StepSignal, ...] = get_args(StepSignal)
COMPUTED_SIGNALS: tuple[ComputedSignal, ...] = get_args(ComputedSignal)


@dataclass(frozen=True)
class Operand:
    """One tensor that sums can read, [1, tokens, dim]; dim depends on the signal."""

    signal: Signal
    """``probe``: output of the probe blocks. ``probe_residual``: the probe minus the input of block 0.
    ``timestep_embedding``, ``timestep_modulation``, ``modulated_input``: TeaCache's signals, taken before block 0.
    ``latents`` and ``computed_latents``: the latents of each token. ``velocity``: the model's output, which is unknown
    at age 0. A signal that all tokens have in common is one token long on the rank that holds the first token and empty
    on the others, so that it is counted once."""
    age: int
    """0 is this step. For ``probe_residual``, ``computed_latents`` and ``velocity`` the age counts computed steps only;
    for the others it counts all steps, computed or skipped."""

    @property
    def is_settled(self) -> bool:
        """Whether it does not change until the next computed step."""
        return self.signal in COMPUTED_SIGNALS and self.age > 0

    def exists(self, history: History) -> bool:
        return self.age <= (len(history.computed) if self.signal in COMPUTED_SIGNALS else history.num_steps)


class Chunk:
    """Some tokens of the operands.

    Args:
        tensors: [1, tokens, dim], float64 or narrower than float32; those of one sum have one shape and dtype.
        minus_one: as of :func:`dicache.arithmetic.number`.
    """

    def __init__(self, tensors: Mapping[Operand, Tensor], minus_one: Tensor) -> None:
        self._tensors = tensors
        self._minus_one = minus_one
        self._kept: dict[tuple[Operand, Operand], Tensor] = {}

    def __getitem__(self, operand: Operand) -> Tensor:
        return self._tensors[operand]

    def difference(self, a: Operand, b: Operand) -> Tensor:
        """a - b, as of :func:`dicache.arithmetic.difference`."""
        from dicache.arithmetic import difference

        return difference(self[a], self[b], self._minus_one)

    def kept_difference(self, a: Operand, b: Operand) -> Tensor:
        """The same, made once for several sums."""
        if (a, b) not in self._kept:
            self._kept[a, b] = self.difference(a, b)
        return self._kept[a, b]


class Sum(Protocol):
    """A hashable value that declares one sum."""

    @property
    def operands(self) -> tuple[Operand, ...]: ...

    def of(self, chunk: Chunk) -> Tensor:
        """What each token brings to the sum, [1, tokens], as precisely as :mod:`dicache.arithmetic` says."""
        ...


@dataclass(frozen=True)
class AbsoluteSum:
    """Σ|a|, or Σ|a - b| if ``b`` is given."""

    a: Operand
    b: Operand | None = None

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.a,) if self.b is None else (self.a, self.b)

    def of(self, chunk: Chunk) -> Tensor:
        from dicache.arithmetic import absolute_sums

        return absolute_sums(chunk[self.a] if self.b is None else chunk.difference(self.a, self.b))


@dataclass(frozen=True)
class InnerSum:
    """⟨a - b, c - d⟩, the sum over the products of elements."""

    left: tuple[Operand, Operand]
    right: tuple[Operand, Operand]

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (*self.left, *self.right)

    def of(self, chunk: Chunk) -> Tensor:
        from dicache.arithmetic import product_sums

        return product_sums(chunk.kept_difference(*self.left), chunk.kept_difference(*self.right))


@dataclass(frozen=True)
class ProductSum:
    """⟨a, b⟩, the sum over the products of elements."""

    a: Operand
    b: Operand

    @property
    def operands(self) -> tuple[Operand, ...]:
        return self.a, self.b

    def of(self, chunk: Chunk) -> Tensor:
        from dicache.arithmetic import product_sums

        return product_sums(chunk[self.a], chunk[self.b])


@dataclass(frozen=True)
class SquareSum:
    """Σ a²."""

    a: Operand

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.a,)

    def of(self, chunk: Chunk) -> Tensor:
        from dicache.arithmetic import product_sums

        return product_sums(chunk[self.a], chunk[self.a])
