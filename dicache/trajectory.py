"""The tensors of one segment of one lane: the fewest that its method's formulas name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dicache.arithmetic import combine
from dicache.evaluation import Source, evaluate
from dicache.pairs import Anchor
from dicache.sums import COMPUTED_SIGNALS, STEP_SIGNALS, Operand, Signal, Sum

VELOCITY_ANCHORS: tuple[Anchor, ...] = ("latents", "nothing")
"""With these the model's output is kept and estimated, with the others what the segment's blocks put out."""


@dataclass(frozen=True)
class Observation:
    """The tensors of one step of one lane on this rank that are known before the ranks agree.

    ``probe`` and ``signals`` are kept as they are, without a copy: nothing may write to them afterwards.
    """

    x: Tensor
    """Input of block 0, [1, tokens_local, dim], real tokens only; tokens_local may be 0."""
    probe: Tensor
    """``x`` after the blocks that run before the agreement, same shape; ``x`` itself if there are none."""
    signals: Mapping[Signal, Tensor] = field(default_factory=dict)
    """Whatever else the method looks at before the agreement, as described in :class:`dicache.sums.Operand`."""


class Ring:
    """The newest ``depth`` tensors of one kind: written to slots that are allocated at first use and then overwritten
    (:meth:`next_slot`), or kept as they come (:meth:`keep`); a ring takes one of the two."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._slots: list[Tensor] = []  # newest first

    def next_slot(self, like: Tensor) -> Tensor:
        """The slot to write the newest tensor to, contents undefined; it holds the oldest one no more."""
        full = len(self._slots) == self._depth
        slot = self._slots.pop() if full else torch.empty_like(like, memory_format=torch.contiguous_format)
        self._slots.insert(0, slot)
        return slot

    def keep(self, tensor: Tensor) -> None:
        """Hold ``tensor`` itself as the newest; a copy if it is a part of something larger, which would be held too."""
        is_whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        kept = tensor if is_whole else tensor.clone(memory_format=torch.contiguous_format)
        self._slots = [kept, *self._slots][: self._depth]

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
    """What one segment of one lane remembers between steps on this rank; all tensors are [1, tokens_local, dim].

    Args:
        sums: everything that will be measured; it determines which signals are kept, and how many of each.
        depth: residuals to keep, of as many computed steps.
        anchor: what a residual is the difference to: "input", the input of block 0, or "probe", the input of the
            segment, of which the segment's output is taken; "latents", the latents of each token, of which the model's
            velocity is taken; or "nothing", then the residual is the velocity itself.
    """

    def __init__(self, sums: Sequence[Sum], depth: int, anchor: Anchor) -> None:
        operands = [operand for term in sums for operand in term.operands]
        self._signals = {
            signal: Ring(max((operand.age for operand in operands if operand.signal == signal), default=0))
            for signal in (*STEP_SIGNALS, *COMPUTED_SIGNALS)
        }
        self._residuals = Ring(depth)
        self._anchor = anchor
        self._settled: dict[Sum, Tensor] = {}  # sums over computed steps only, measured once after each

    @property
    def nbytes(self) -> int:
        return sum(ring.nbytes for ring in self._rings.values())

    @property
    def tensors(self) -> dict[str, tuple[Tensor, ...]]:
        """All that is kept, by kind, newest first. The next step overwrites some of them in place.

        Sums that were measured once and kept are not among them: measured again they are the same bits.
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

    def measure(self, sums: Sequence[Sum], shown: Observation) -> Tensor:
        """Evaluate sums over this rank's tokens: float64 [len(sums)] on the device of the observation, no host sync."""

        def read(operand: Operand) -> Source:
            if operand.age:
                return Source(self._signals[operand.signal].newest(operand.age))
            if operand.signal == "probe":
                return Source(shown.probe)
            if operand.signal == "probe_residual":
                # Rounded like the older ones: else an unchanged probe would seem to have changed in bf16.
                return Source(shown.probe, minus=shown.x)
            return Source(shown.signals[operand.signal])

        fresh = [term for term in sums if term not in self._settled]
        values = self._settled | dict(zip(fresh, evaluate(fresh, read, shown.x.device), strict=True))
        self._settled = {term: values[term] for term in values if all(o.is_settled for o in term.operands)}
        return torch.stack([values[term] for term in sums]) if sums else evaluate((), read, shown.x.device)

    def combine(self, coefficients: Sequence[float], shown: Observation, entering: Tensor) -> Tensor:
        """Anchor + Σ cᵢ r₋ᵢ in the dtype of the anchor, or of the residuals without one, added up in float32 at least.

        Coefficients of opposite sign cancel, so adding up in bf16 would round larger numbers than the result.

        Args:
            entering: input of the segment, [1, tokens_local, dim].
        """
        base = self._base(shown, entering)
        terms = [self._residuals.newest(age) for age in range(1, len(coefficients) + 1)]
        return combine(base, terms, coefficients)

    def record_skipped(self, shown: Observation) -> None:
        """Remember what a step has shown at which the segment was estimated."""
        for signal in STEP_SIGNALS:
            if ring := self._signals[signal]:
                ring.keep(shown.probe if signal == "probe" else shown.signals[signal])

    def record_computed(self, shown: Observation, entering: Tensor, leaving: Tensor) -> None:
        """Remember what a step has shown at which the segment ran.

        Args:
            entering: input of the segment, [1, tokens_local, dim].
            leaving: its output, or the velocity if the anchor is of those.
        """
        self.record_skipped(shown)
        self._settled = {}
        if ring := self._signals["probe_residual"]:
            torch.sub(shown.probe, shown.x, out=ring.next_slot(shown.probe))
        if ring := self._signals["computed_latents"]:
            ring.keep(shown.signals["latents"])
        if self._residuals:
            base = self._base(shown, entering)
            if base is None:
                self._residuals.next_slot(leaving).copy_(leaving)
            else:
                slot = self._residuals.next_slot(leaving if self._anchor != "latents" else base)
                torch.sub(leaving, base, out=slot)

    def record_velocity(self, velocity: Tensor) -> None:
        """Remember the velocity of a step at which the segment ran, if a sum asks for it; follows
        :meth:`record_computed`."""
        if ring := self._signals["velocity"]:
            ring.next_slot(velocity).copy_(velocity)

    def carry(self, added: Tensor) -> None:
        """Add to the newest residual, if that is a velocity."""
        if self._anchor == "nothing":
            self._residuals.newest(1).add_(added)

    def _base(self, shown: Observation, entering: Tensor) -> Tensor | None:
        match self._anchor:
            case "input":
                return shown.x
            case "probe":
                return entering
            case "latents":
                return shown.signals["latents"]
            case "nothing":
                return None
