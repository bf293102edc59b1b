"""The cache of one request on one rank: the only class of this package that the engine talks to."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

from torch import Tensor

from dicache.config import CacheConfig
from dicache.methods import build_method
from dicache.rules import build_rules
from dicache.steps import Decision, History, Lane, Snapshot, Step
from dicache.sums import StepSignal, Sum
from dicache.trajectory import NO_SIGNALS, Signals, Trajectory

__all__ = ["Controller", "Decision", "History", "Lane", "Snapshot", "Step"]


class Controller:
    """Decides for all lanes of a request, and keeps the tensors of those lanes that this rank holds.

    At every step: :meth:`partial_sums` for each lane that this rank holds; then the caller adds up the sums of
    all ranks; then :meth:`decide`, on every rank with the same floats; then, for each lane that this rank holds,
    :meth:`estimate` after a skip and :meth:`record` otherwise. Nothing outlives the controller.

    Args:
        config: what the user chose.
        lanes: all lanes of the request, also those that other ranks hold, in the same order on every rank.
        num_steps: denoise steps of the request.
        num_blocks: transformer blocks that one step runs.
        span: the steps that this controller will be asked about, all of them if None. An expert that takes over
            half-way has a controller of its own, which knows nothing of the steps before: it computes the first of
            its steps, and its warm-up and its intervals are counted from there.
        published: names of the published models that the model may be, as in :func:`dicache.methods.build_method`.
        shift: flow shift of the sampler, or None for that at which published numbers were measured.

    Raises:
        ValueError: a setting does not fit the request: probe depth, listed steps, the replayed report, or a method
            that is not published for this model.
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
        self._method = build_method(config, lanes, num_steps, span, published, shift)
        self._warmup_end = span.start + self._method.warmup_steps
        self._rules = build_rules(config, lanes, num_steps)
        self.probe_blocks = config.probe_depth if self._method.needs_probe else 0
        """Blocks to run before the agreement; 0 if the method looks at no probe."""
        if self.probe_blocks >= num_blocks:
            raise ValueError(
                f"cache.probe_depth is {config.probe_depth}, but the model has {num_blocks} blocks: "
                f"use at most {num_blocks - 1}, so that a skipped step skips something."
            )
        method = self._method
        self._histories = {lane: History(lane) for lane in lanes}
        self._trajectories = {lane: Trajectory(method.sums, method.estimator.depth, method.anchor) for lane in lanes}
        self._decisions: dict[Lane, Decision] = {}

    @property
    def step_signals(self) -> tuple[StepSignal, ...]:
        """What every call wants to be given besides ``x`` and ``probe``, as described in :class:`dicache.sums.Operand`;
        empty for most methods."""
        return self._method.step_signals

    @property
    def estimates_velocity(self) -> bool:
        """Whether :meth:`estimate` gives the model's output, so that its head does not run, and not the output of all
        blocks."""
        return self._method.estimates_velocity

    @property
    def needs_velocity(self) -> bool:
        """Whether :meth:`record` wants the model's output among its signals, as "velocity"."""
        return self._method.needs_velocity

    def num_sums(self, step: Step, lane: Lane) -> int:
        """How many sums the lane brings to this step's agreement: the same number on every rank."""
        return len(self._sums(step, lane))

    def partial_sums(self, step: Step, lane: Lane, x: Tensor, probe: Tensor, signals: Signals = NO_SIGNALS) -> Tensor:
        """Measure this rank's tokens, without waiting for the device.

        Args:
            x: input of block 0, [1, tokens_local, dim], real tokens only; tokens_local may be 0.
            probe: ``x`` after the first ``probe_blocks`` blocks, same shape.
            signals: those of :attr:`step_signals`.

        Returns:
            float64 [num_sums] on the device of ``x``.
        """
        return self._trajectories[lane].measure(self._sums(step, lane), x, probe, signals)

    def decide(self, step: Step, sums: Mapping[Lane, Sequence[float]]) -> dict[Lane, Decision]:
        """Decide for all lanes, from the sums over all ranks; a lane without sums may be left out.

        Raises:
            ValueError: a lane has not as many sums as :meth:`num_sums` says.
        """
        proposals = {lane: self._propose(step, lane, sums.get(lane, ())) for lane in self._histories}
        self._decisions = self._rules.settle(step, proposals, self._histories)
        for lane, decision in self._decisions.items():
            self._histories[lane].advance(step, decision)
        return dict(self._decisions)

    def estimate(self, lane: Lane, x: Tensor, probe: Tensor, signals: Signals = NO_SIGNALS) -> Tensor:
        """After a skip: what all blocks, or the whole model, would have given, [1, tokens_local, dim]; remembers what
        the step has shown."""
        coefficients = self._decisions[lane].coefficients
        assert coefficients, f"estimate() follows a skip, but {lane} was decided {self._decisions[lane]}"
        estimate = self._trajectories[lane].combine(coefficients, x, probe, signals)
        self._trajectories[lane].record_skipped(probe, signals)
        return estimate

    def record(self, lane: Lane, x: Tensor, probe: Tensor, y: Tensor, signals: Signals = NO_SIGNALS) -> None:
        """After a computed step: remember it.

        Args:
            y: output of all blocks, [1, tokens_local, dim].
            signals: those of :attr:`step_signals`, and "velocity" if :attr:`needs_velocity`.
        """
        output = signals["velocity"] if self.estimates_velocity else y
        self._trajectories[lane].record_computed(x, probe, output, signals)

    def carry(self, lane: Lane, added: Tensor) -> None:
        """Add to the velocity of the step just computed, [1, tokens_local, dim]; nothing to do where no velocity is
        kept as it is."""
        self._trajectories[lane].carry(added)

    @property
    def cache_bytes(self) -> int:
        """Bytes of all tensors that this rank keeps between steps now."""
        return sum(trajectory.nbytes for trajectory in self._trajectories.values())

    def snapshot(self) -> Snapshot:
        """What :meth:`restore` takes. The tensors are the controller's own: copy them before the next step."""
        tensors = {lane: trajectory.tensors for lane, trajectory in self._trajectories.items()}
        return Snapshot(deepcopy(self._histories), {lane: kept for lane, kept in tensors.items() if kept})

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of the same method and lanes; its tensors, of this rank's tokens, are kept.

        Raises:
            ValueError: it is of other lanes, or of another method.
        """
        if snapshot.histories.keys() != self._histories.keys():
            raise ValueError(
                f"The snapshot is of {list(snapshot.histories)}, but the lanes are {list(self._histories)}."
            )
        self._histories = deepcopy(dict(snapshot.histories))
        for lane, trajectory in self._trajectories.items():
            trajectory.restore(snapshot.tensors.get(lane, {}))

    def release(self) -> None:
        """Free all tensors, after the last step that this controller is asked about."""
        self._trajectories.clear()

    def _may_skip(self, step: Step, lane: Lane) -> bool:
        """What is certain before measuring; nothing can be estimated before a first computed step."""
        past_warmup = step.index >= self._warmup_end and bool(self._histories[lane].computed)
        return past_warmup and self._method.gate.may_skip(step, lane)

    def _sums(self, step: Step, lane: Lane) -> list[Sum]:
        if not self._may_skip(step, lane):
            return []
        history = self._histories[lane]
        return [term for term in self._method.sums if all(o.exists(history) for o in term.operands)]

    def _propose(self, step: Step, lane: Lane, sums: Sequence[float]) -> Decision:
        measured = dict(zip(self._sums(step, lane), map(float, sums), strict=True))
        if not self._may_skip(step, lane):
            return Decision("warmup" if step.index < self._warmup_end else "compute")
        history = self._histories[lane]
        estimate = self._method.estimator.estimate(step, history, measured)
        vote = self._method.gate.vote(step, history, measured, estimate)
        if not vote.skip:
            return Decision("compute", vote.indicator, vote.accumulated)
        return Decision("skip", vote.indicator, vote.accumulated, estimate.gamma, estimate.coefficients)
