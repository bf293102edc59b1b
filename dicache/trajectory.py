"""The tensors of one lane: the fewest that its method's formulas name, overwritten in place."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dicache.estimators import Anchor
from dicache.sums import SIGNALS, Operand, Sum, evaluate, token_chunks


class Ring:
    """The newest ``depth`` tensors of one kind. Slots are allocated at first use and then overwritten."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._slots: list[Tensor] = []  # newest first

    def next_slot(self, like: Tensor) -> Tensor:
        """The slot to write the newest tensor to, contents undefined; it holds the oldest one no more."""
        full = len(self._slots) == self._depth
        slot = self._slots.pop() if full else torch.empty_like(like, memory_format=torch.contiguous_format)
        self._slots.insert(0, slot)
        return slot

    def restore(self, slots: Sequence[Tensor]) -> None:
        """Go on from what :attr:`slots` was; the tensors are the ring's from now on.

        Raises:
            ValueError: there are more than it holds.
        """
        if len(slots) > self._depth:
            raise ValueError(f"{len(slots)} tensors do not fit into a ring of {self._depth}.")
        self._slots = list(slots)

    @property
    def slots(self) -> tuple[Tensor, ...]:
        """All tensors written so far that it still holds, newest first."""
        return tuple(self._slots)

    def newest(self, age: int) -> Tensor:
        """The tensor written ``age`` writes ago, 1 being the newest."""
        return self._slots[age - 1]

    def __bool__(self) -> bool:
        return self._depth > 0

    @property
    def nbytes(self) -> int:
        return sum(slot.nbytes for slot in self._slots)


class Trajectory:
    """What one lane remembers between steps on this rank; all tensors are [1, tokens_local, dim].

    Args:
        sums: everything that will be measured; it determines which probe tensors are kept, and how many.
        depth: residuals to keep, of as many computed steps.
        anchor: what residuals are counted from.
    """

    def __init__(self, sums: Sequence[Sum], depth: int, anchor: Anchor) -> None:
        operands = [operand for term in sums for operand in term.operands]
        self._signals = {
            signal: Ring(max((operand.age for operand in operands if operand.signal == signal), default=0))
            for signal in SIGNALS
        }
        self._residuals = Ring(depth)
        self._anchor = anchor
        self._settled: dict[Sum, Tensor] = {}  # sums over computed steps only, measured once after each

    @property
    def nbytes(self) -> int:
        return sum(ring.nbytes for ring in self._rings.values())

    @property
    def tensors(self) -> dict[str, tuple[Tensor, ...]]:
        """All that is kept, by kind, newest first. They are overwritten in place by the next step.

        The sums that are settled are not among them: measured again from the same tensors they are the same bits.
        """
        return {name: ring.slots for name, ring in self._rings.items() if ring.slots}

    def restore(self, tensors: Mapping[str, Sequence[Tensor]]) -> None:
        """Go on from what :attr:`tensors` was, with tensors of this rank's tokens, which are kept.

        Raises:
            ValueError: they are another method's.
        """
        unknown = sorted(tensors.keys() - self._rings.keys())
        if unknown:
            raise ValueError(f"This method keeps {sorted(self._rings)}, but there is {', '.join(unknown)}.")
        for name, ring in self._rings.items():
            ring.restore(tensors.get(name, ()))
        self._settled = {}

    @property
    def _rings(self) -> dict[str, Ring]:
        return {str(signal): ring for signal, ring in self._signals.items()} | {"residual": self._residuals}

    def measure(self, sums: Sequence[Sum], x: Tensor, probe: Tensor) -> Tensor:
        """Evaluate sums over this rank's tokens: float64 [len(sums)] on the device of ``x``, no host sync."""

        def read(operand: Operand, tokens: slice) -> Tensor:
            if operand.age:
                return self._signals[operand.signal].newest(operand.age)[:, tokens]
            if operand.signal == "probe":
                return probe[:, tokens]
            # Rounded like the older ones: else an unchanged probe would seem to have changed in bf16.
            return probe[:, tokens] - x[:, tokens]

        fresh = [term for term in sums if term not in self._settled]
        values = self._settled | dict(zip(fresh, evaluate(fresh, read, like=x), strict=True))
        self._settled = {term: values[term] for term in values if all(o.is_settled for o in term.operands)}
        return torch.stack([values[term] for term in sums]) if sums else evaluate((), read, like=x)

    def combine(self, coefficients: Sequence[float], x: Tensor, probe: Tensor) -> Tensor:
        """Anchor + Σ cᵢ r₋ᵢ in the dtype of the anchor, added up in float32 at least.

        Coefficients of opposite sign cancel, so adding up in bf16 would round larger numbers than the result.
        """
        base = self._base(x, probe)
        result = torch.empty_like(base)
        for tokens in token_chunks(base):
            total = base[:, tokens].to(torch.promote_types(base.dtype, torch.float32), copy=True)
            for age, coefficient in enumerate(coefficients, start=1):
                total.add_(self._residuals.newest(age)[:, tokens], alpha=coefficient)
            result[:, tokens] = total
        return result

    def record_skipped(self, probe: Tensor) -> None:
        """Remember what a skipped step has shown."""
        if ring := self._signals["probe"]:
            ring.next_slot(probe).copy_(probe)

    def record_computed(self, x: Tensor, probe: Tensor, y: Tensor) -> None:
        """Remember what a computed step has shown; ``y`` is the output of all blocks."""
        self.record_skipped(probe)
        self._settled = {}
        if ring := self._signals["probe_residual"]:
            torch.sub(probe, x, out=ring.next_slot(probe))
        if self._residuals:
            torch.sub(y, self._base(x, probe), out=self._residuals.next_slot(y))

    def _base(self, x: Tensor, probe: Tensor) -> Tensor:
        return x if self._anchor == "input" else probe
