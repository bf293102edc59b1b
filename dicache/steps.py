"""The types that the engine, gates and estimators share: plain numbers, the same on every rank, and their snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the configuration imports the gates, and need not wait for torch
    from torch import Tensor

Action = Literal["warmup", "compute", "skip"]


@dataclass(frozen=True)
class Lane:
    """One sequence that the transformer sees at every step."""

    sample: int
    """Which prompt of the batch. Samples never influence one another."""
    branch: str
    """Guidance branch, ``"cond"`` or ``"uncond"``."""
    window: int = 0
    """Which window of a long video, from 0; a video that is denoised as a whole has one."""


@dataclass(frozen=True)
class Step:
    """One denoise step of the sampler."""

    index: int
    sigma: float
    """Noise level at which the transformer is asked."""
    sigma_next: float
    """Noise level that the sampler goes to; ``sigma - sigma_next`` is the size of its step."""


@dataclass(frozen=True)
class Decision:
    """What is done with one segment of one lane at one step, and from which numbers."""

    action: Action
    indicator: float | None = None
    """The gate's measure of change, if it measured."""
    accumulated: float | None = None
    """The value that was compared with the threshold, before any reset, if the gate accumulates."""
    gamma: float | None = None
    """Alignment of a skipped step, if its estimator aligns."""
    coefficients: tuple[float, ...] = ()
    """Of a skipped step: the weights of the residuals of the computed steps, newest first."""


@dataclass
class History:
    """What has been agreed about one segment of one lane: every rank holds equal histories of all lanes.

    A step is computed if the segment ran, and skipped if it was estimated.
    """

    lane: Lane
    computed: list[Step] = field(default_factory=list)
    """Steps computed so far, oldest first."""
    num_steps: int = 0
    """Steps passed so far, computed or skipped."""
    accumulated: float = 0.0
    """The gate's accumulator since the last computed step."""
    segment: int = 0
    """Number of the segment among those that the method may estimate."""

    def skips_before(self, step: Step) -> int:
        """Steps skipped since the last computed one."""
        return step.index - self.computed[-1].index - 1

    @property
    def num_skips(self) -> int:
        """Steps skipped so far."""
        return self.num_steps - len(self.computed)

    def advance(self, step: Step, decision: Decision) -> None:
        """Take note of what was decided for ``step``."""
        self.num_steps += 1
        if decision.action == "skip":
            self.accumulated = decision.accumulated or 0.0
        else:
            self.computed.append(step)
            self.accumulated = 0.0


SegmentKey = tuple[Lane, int]
"""A lane, and the number of a segment among those that the method may estimate."""


@dataclass(frozen=True)
class Snapshot:
    """A controller between two steps: all that a resumed run needs to take the same decisions and estimates.

    histories: of all lanes and segments, in the same order on every rank. tensors: of the lanes that this rank holds,
    by kind, newest first, [1, tokens_local, dim] each.
    """

    histories: Mapping[SegmentKey, History]
    tensors: Mapping[SegmentKey, Mapping[str, Sequence[Tensor]]]
