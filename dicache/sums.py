"""Sums over the tokens of probe tensors: what a gate or an estimator may ask to be measured.

A sum is declared as data and evaluated on each rank's own tokens; the partial sums of the ranks add up to the
sum over the whole sequence. A new kind of sum is one class with ``operands`` and ``of``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from dicache.steps import History

Signal = Literal["probe", "probe_residual"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)

# Elements of one chunk. On a CPU temporaries stay in its cache and in memory that is already mapped (whole tensors
# took several times as long); on a GPU they are bounded to 16 MiB each, and launches do not dominate.
_CHUNK_ELEMENTS = {"cpu": 1 << 15, "cuda": 1 << 21}


@dataclass(frozen=True)
class Operand:
    """One tensor that sums can look at, [1, tokens, dim]."""

    signal: Signal
    """``probe``: output of the probe blocks; ``probe_residual``: that minus the input of block 0."""
    age: int
    """0 is this step's. An older ``probe`` counts all steps back, computed or skipped; an older
    ``probe_residual`` counts computed steps only."""

    @property
    def is_settled(self) -> bool:
        """Whether it stays the same until the next computed step."""
        return self.signal == "probe_residual" and self.age > 0

    def exists(self, history: History) -> bool:
        return self.age <= (history.num_steps if self.signal == "probe" else len(history.computed))


class Sum(Protocol):
    """A hashable value that names one sum."""

    @property
    def operands(self) -> tuple[Operand, ...]: ...

    def of(self, tensors: Mapping[Operand, Tensor]) -> Tensor:
        """The sum over the given float64 tensors, as a float64 scalar on their device."""
        ...


@dataclass(frozen=True)
class AbsoluteSum:
    """Σ|a|, or Σ|a - b| if ``b`` is given."""

    a: Operand
    b: Operand | None = None

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.a,) if self.b is None else (self.a, self.b)

    def of(self, tensors: Mapping[Operand, Tensor]) -> Tensor:
        a = tensors[self.a]
        return torch.linalg.vector_norm(a if self.b is None else a - tensors[self.b], ord=1)


def evaluate(sums: Sequence[Sum], read: Callable[[Operand, slice], Tensor], like: Tensor) -> Tensor:
    """Evaluate sums over the tokens of ``like`` in float64, chunk by chunk and without a host sync.

    Args:
        read: gives the tokens of an operand, any float dtype, [1, tokens, dim].
        like: a tensor [1, tokens, dim] that has the operands' shape and device. No tokens give zeros.

    Returns:
        float64 [len(sums)] on the device of ``like``.
    """
    total = torch.zeros(len(sums), dtype=torch.float64, device=like.device)
    operands = dict.fromkeys(operand for term in sums for operand in term.operands)
    for tokens in token_chunks(like) if sums else ():
        chunk = {operand: read(operand, tokens).double() for operand in operands}
        total += torch.stack([term.of(chunk) for term in sums])
    return total


def token_chunks(tensor: Tensor) -> Iterator[slice]:
    """Slices over the tokens of [1, tokens, dim] that bound the size of temporaries."""
    _, num_tokens, dim = tensor.shape
    stride = max(1, _CHUNK_ELEMENTS[tensor.device.type] // dim)
    for start in range(0, num_tokens, stride):
        yield slice(start, start + stride)
