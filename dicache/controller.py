"""The cache of one request on one rank: the only class of this package that the engine talks to."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor

from dicache.config import CacheConfig
from dicache.rules import build_rules
from dicache.segment_cache import SegmentCache, make_caches
from dicache.segments import Plan, Planned, Segment, build_scheme
from dicache.steps import Decision, History, Lane, SegmentKey, Snapshot, Step
from dicache.sums import StepSignal
from dicache.trajectory import Observation

__all__ = [
    "Controller",
    "Decision",
    "History",
    "Lane",
    "Observation",
    "Plan",
    "Planned",
    "Segment",
    "SegmentKey",
    "Snapshot",
    "Step",
]


class Controller:
    """Decides for all lanes of a request, and keeps the tensors of those lanes that this rank holds.

    A step goes like this. The caller runs the first :attr:`probe_blocks` blocks and calls :meth:`partial_sums`, for
    each lane that this rank holds. It adds up the sums of all ranks and calls :meth:`decide`, on every rank with the
    same floats. For each lane that this rank holds it then follows the plan, segment by segment: it calls
    :meth:`estimate` for a segment that is estimated, and :meth:`record` after one that ran and may be estimated at
    other steps. After the head it calls :meth:`record_velocity`. Nothing outlives the controller.

    Args:
        config: what the user chose.
        lanes: all lanes of the request, also those that other ranks hold, in the same order on every rank.
        num_steps: denoise steps of the request.
        num_blocks: transformer blocks of the model.
        span: the steps that this controller will be asked about, all of them if None. An expert that takes over
            half-way has a controller of its own, which knows nothing of the steps before: it computes the first of
            its steps, and its warm-up and its intervals are counted from there.
        published: names of the published models that the model may be, as in :func:`dicache.methods.build_method`.
        shift: flow shift of the sampler, or None for that at which published numbers were measured.

    Raises:
        ValueError: a setting does not fit the request: the blocks that always run, listed steps, the replayed report,
            or a method that is not published for this model.
    """

    def __init__(
        self,
        config: CacheConfig,
        lanes: Sequence[Lane],
        num_steps: int,
        num_blocks: int,
        span: range | None = None,
        published: Sequence[str] = (),
        shift: float | None = None,
    ) -> None:
        span = range(num_steps) if span is None else span
        self._scheme = build_scheme(config, lanes, num_steps, num_blocks, span, published, shift)
        self._rules = build_rules(config, lanes, num_steps)
        self._caches = make_caches(self._scheme, lanes, span)

    @property
    def probe_blocks(self) -> int:
        """Blocks to run before the agreement; 0 if the method looks at no probe."""
        return self._scheme.probe_blocks

    @property
    def cached_segments(self) -> tuple[Segment, ...]:
        """The segments that may be estimated, in the order of :attr:`Plan.decisions`."""
        return tuple(segment for segment, _ in self._scheme.cached)

    @property
    def runs_after_estimates(self) -> bool:
        """Whether blocks run at steps at which blocks before them were estimated, so that they take an estimate as
        their input."""
        methods = [method for _, method in self._scheme.segments]
        return any(method is not None for method in methods[:-1])

    @property
    def step_signals(self) -> tuple[StepSignal, ...]:
        """What an observation has to hold besides ``x`` and ``probe``, as described in :class:`dicache.sums.Operand`;
        empty for most methods."""
        return tuple(dict.fromkeys(name for _, method in self._scheme.cached for name in method.step_signals))

    @property
    def needs_velocity(self) -> bool:
        """Whether :meth:`record_velocity` has anything to remember."""
        return any(method.needs_velocity for _, method in self._scheme.cached)

    def num_sums(self, step: Step, lane: Lane) -> int:
        """How many sums the lane brings to this step's agreement: the same number on every rank."""
        return sum(len(cache.sums(step)) for cache in self._caches[lane].values())

    def partial_sums(self, step: Step, lane: Lane, shown: Observation) -> Tensor:
        """Measure this rank's tokens, without waiting for the device.

        Returns:
            float64 [num_sums] on the device of the observation.
        """
        return torch.cat([cache.measure(step, shown) for cache in self._caches[lane].values()])

    def decide(self, step: Step, sums: Mapping[Lane, Sequence[float]]) -> dict[Lane, Plan]:
        """Decide for all lanes, from the sums over all ranks; a lane without sums may be left out.

        Raises:
            ValueError: a lane has not as many sums as :meth:`num_sums` says.
        """
        proposals = {lane: self._propose(step, lane, sums.get(lane, ())) for lane in self._caches}
        for segment in self.cached_segments:
            caches = {lane: of_lane[segment] for lane, of_lane in self._caches.items()}
            proposed = {lane: of_lane[segment] for lane, of_lane in proposals.items()}
            settled = self._rules.settle(step, proposed, {lane: cache.history for lane, cache in caches.items()})
            for lane, cache in caches.items():
                cache.accept(step, settled[lane])
        return {lane: self._plan(lane) for lane in self._caches}

    def estimate(self, lane: Lane, segment: Segment, shown: Observation, entering: Tensor) -> Tensor:
        """The estimate of a segment's output, or of the model's velocity if the segment ends with the head; also
        records the step's observation.

        Args:
            segment: estimated at this step, by the plan.
            entering: input of the segment, [1, tokens_local, dim].

        Returns:
            [1, tokens_local, dim], with the velocity's dim for a velocity.
        """
        return self._caches[lane][segment].estimate(shown, entering)

    def record(self, lane: Lane, segment: Segment, shown: Observation, entering: Tensor, leaving: Tensor) -> None:
        """Remember a step at which the segment ran; one that ends with the head waits for :meth:`record_velocity`.

        Args:
            entering: input of the segment, [1, tokens_local, dim].
            leaving: its output, same shape.
        """
        if not segment.with_head:
            self._caches[lane][segment].record(shown, entering, leaving)

    def record_velocity(self, lane: Lane, shown: Observation, velocity: Tensor) -> None:
        """Remember the model's velocity, [1, tokens_local, dim], after a step whose head ran."""
        for cache in self._caches[lane].values():
            if cache.decision.action != "skip":
                cache.record_velocity(shown, velocity)

    def carry(self, lane: Lane, added: Tensor) -> None:
        """Add to the velocity of the step just computed, [1, tokens_local, dim]; nothing to do where no velocity is
        kept as it is."""
        for cache in self._caches[lane].values():
            cache.carry(added)

    @property
    def cache_bytes(self) -> int:
        """Bytes of all tensors that this rank keeps between steps now."""
        return sum(cache.nbytes for cache in self._by_key.values())

    def snapshot(self) -> Snapshot:
        """The state, for :meth:`restore`. The tensors are the controller's own: copy them before the next step."""
        histories = {key: deepcopy(cache.history) for key, cache in self._by_key.items()}
        tensors = {key: cache.tensors for key, cache in self._by_key.items()}
        return Snapshot(histories, {key: kept for key, kept in tensors.items() if kept})

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of the same method and lanes; its tensors, of this rank's tokens, are kept.

        Raises:
            ValueError: it is of other lanes, or of another method.
        """
        if snapshot.histories.keys() != self._by_key.keys():
            raise ValueError(
                f"The snapshot is of the lanes and segments {list(snapshot.histories)}, "
                f"but the request has {list(self._by_key)}."
            )
        for key, cache in self._by_key.items():
            cache.restore(snapshot.histories[key], snapshot.tensors.get(key, {}))

    def release(self) -> None:
        """Free all tensors, after the last step that this controller is asked about."""
        for cache in self._by_key.values():
            cache.release()

    @property
    def _by_key(self) -> dict[SegmentKey, SegmentCache]:
        return {
            (lane, number): cache
            for lane, of_lane in self._caches.items()
            for number, cache in enumerate(of_lane.values())
        }

    def _propose(self, step: Step, lane: Lane, sums: Sequence[float]) -> dict[Segment, Decision]:
        """What the gates propose, each from its own part of the lane's sums."""
        if len(sums) != self.num_sums(step, lane):
            raise ValueError(
                f"{lane} brings {len(sums)} sums to step {step.index}, but {self.num_sums(step, lane)} were asked for."
            )
        proposals, start = {}, 0
        for segment, cache in self._caches[lane].items():
            stop = start + len(cache.sums(step))
            proposals[segment] = cache.propose(step, sums[start:stop])
            start = stop
        return proposals

    def _plan(self, lane: Lane) -> Plan:
        caches = self._caches[lane]
        return Plan(
            tuple(
                Planned(segment, None if method is None else caches[segment].decision)
                for segment, method in self._scheme.segments
            )
        )
