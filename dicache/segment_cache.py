"""The cache of one segment of one lane: what was agreed about it, and the tensors that this rank keeps of it."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

from torch import Tensor

from dicache.methods import Method
from dicache.segments import Scheme, Segment
from dicache.steps import Decision, History, Lane, Step
from dicache.sums import Sum
from dicache.trajectory import Observation, Trajectory


class SegmentCache:
    """Every rank has one for each lane and segment; the tensors are only on a rank that holds the lane."""

    def __init__(self, method: Method, history: History, warmup_end: int) -> None:
        """
        Args:
            method: when the segment is estimated, and how.
            history: an empty one, with the lane and the number of the segment.
            warmup_end: the step before which nothing is estimated.
        """
        self.history = history
        self.decision = Decision("compute")
        """Of the last step that was decided."""
        self._method = method
        self._warmup_end = warmup_end
        self._trajectory = Trajectory(method.sums, method.estimator.depth, method.anchor)

    def sums(self, step: Step) -> list[Sum]:
        """The sums to measure at this step: none if the segment runs in any case."""
        if not self._may_skip(step):
            return []
        return [term for term in self._method.sums if all(o.exists(self.history) for o in term.operands)]

    def measure(self, step: Step, shown: Observation) -> Tensor:
        """The sums over this rank's tokens, float64 [len(sums)], without waiting for the device."""
        return self._trajectory.measure(self.sums(step), shown)

    def propose(self, step: Step, sums: Sequence[float]) -> Decision:
        """The decision that gate and estimator propose, from the sums over all ranks; :meth:`accept` follows."""
        measured = dict(zip(self.sums(step), map(float, sums), strict=True))
        if not self._may_skip(step):
            return Decision("warmup" if step.index < self._warmup_end else "compute")
        estimate = self._method.estimator.estimate(step, self.history, measured)
        vote = self._method.gate.vote(step, self.history, measured, estimate)
        if not vote.skip:
            return Decision("compute", vote.indicator, vote.accumulated)
        return Decision("skip", vote.indicator, vote.accumulated, estimate.gamma, estimate.coefficients)

    def accept(self, step: Step, decision: Decision) -> None:
        """Record the decision that holds, after the other branch and the user's limits were looked at."""
        self.decision = decision
        self.history.advance(step, decision)

    def estimate(self, shown: Observation, entering: Tensor) -> Tensor:
        """The estimate of the segment's output; also records the step's observation."""
        coefficients = self.decision.coefficients
        assert coefficients, f"estimate() follows a skip, but {self.history.lane} was decided {self.decision}"
        estimate = self._trajectory.combine(coefficients, shown, entering)
        self._trajectory.record_skipped(shown)
        return estimate

    def record(self, shown: Observation, entering: Tensor, leaving: Tensor) -> None:
        """Remember a step at which the segment ran, and what it put out: a velocity, if that is what is estimated."""
        self._trajectory.record_computed(shown, entering, leaving)

    def record_velocity(self, shown: Observation, velocity: Tensor) -> None:
        """Remember the model's output of a step at which the segment ran, where the method asks for it."""
        if self._method.estimates_velocity:
            self.record(shown, shown.probe, velocity)
        self._trajectory.record_velocity(velocity)

    def carry(self, added: Tensor) -> None:
        """Add to the velocity that was recorded last, if velocities are kept as they are."""
        self._trajectory.carry(added)

    @property
    def tensors(self) -> dict[str, tuple[Tensor, ...]]:
        """All that is kept, by kind, newest first; the next step overwrites some of it in place."""
        return self._trajectory.tensors

    @property
    def nbytes(self) -> int:
        return self._trajectory.nbytes

    def restore(self, history: History, tensors: Mapping[str, Sequence[Tensor]]) -> None:
        """Go on from another cache's history, which is copied, and tensors, which are kept.

        Raises:
            ValueError: the tensors are another method's.
        """
        self.history = deepcopy(history)
        self._trajectory.restore(tensors)

    def release(self) -> None:
        """Free all tensors."""
        self._trajectory.restore({})

    def _may_skip(self, step: Step) -> bool:
        """What is certain before measuring; nothing can be estimated before a first computed step."""
        past_warmup = step.index >= self._warmup_end and bool(self.history.computed)
        return past_warmup and self._method.gate.may_skip(step, self.history.lane)


def make_caches(scheme: Scheme, lanes: Sequence[Lane], span: range) -> dict[Lane, dict[Segment, SegmentCache]]:
    """Empty caches of the segments that may be estimated, for each lane.

    Args:
        span: the steps that they will be asked about.
    """
    return {
        lane: {
            segment: SegmentCache(method, History(lane, segment=number), span.start + method.warmup_steps)
            for number, (segment, method) in enumerate(scheme.cached)
        }
        for lane in lanes
    }
