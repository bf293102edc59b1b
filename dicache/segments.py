"""A step as a plan of segments: ranges of blocks that run, or that are estimated from earlier steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dicache.config import CacheConfig
from dicache.methods import Method, build_method
from dicache.steps import Decision, Lane


@dataclass(frozen=True)
class Segment:
    """A range of blocks that a step runs, or estimates, as one."""

    start: int
    """Index of its first block."""
    stop: int
    """Index after its last block."""
    with_head: bool = False
    """An estimate of this segment is the model's velocity, so that the head is estimated along with the blocks."""

    @property
    def num_blocks(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Planned:
    """What one step does with one segment."""

    segment: Segment
    decision: Decision | None = None
    """None for a segment that runs at every step."""

    @property
    def is_cached(self) -> bool:
        """Whether the segment is estimated at some steps, so that it has to be recorded when it runs."""
        return self.decision is not None

    @property
    def is_estimated(self) -> bool:
        return self.decision is not None and self.decision.action == "skip"


@dataclass(frozen=True)
class Plan:
    """What one step does with all blocks of one lane after those that ran before the agreement, in order."""

    parts: tuple[Planned, ...]

    def __iter__(self) -> Iterator[Planned]:
        return iter(self.parts)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Of the segments that may be estimated, in order."""
        return tuple(part.decision for part in self.parts if part.decision is not None)

    @property
    def is_estimated(self) -> bool:
        """Whether the lane's velocity is an estimate, because some segment is."""
        return any(part.is_estimated for part in self.parts)


@dataclass(frozen=True)
class Scheme:
    """How a method divides the blocks of the model.

    Raises:
        ValueError: the segments leave a gap, overlap, or end in blocks after an estimated velocity.
    """

    probe_blocks: int
    """Blocks that run before the ranks agree, so that the gates can look at their output; may be 0."""
    segments: tuple[tuple[Segment, Method | None], ...]
    """The other blocks, in order: each segment with what says when it is estimated and how, or None if it always
    runs."""

    def __post_init__(self) -> None:
        ranges = [segment for segment, _ in self.segments]
        starts = [self.probe_blocks, *(segment.stop for segment in ranges[:-1])]
        if [segment.start for segment in ranges] != starts or any(s.with_head for s, _ in pairwise(ranges)):
            raise ValueError(f"After {self.probe_blocks} blocks, these segments do not follow one another: {ranges}.")

    @property
    def cached(self) -> tuple[tuple[Segment, Method], ...]:
        """The segments that may be estimated, in order."""
        return tuple((segment, method) for segment, method in self.segments if method is not None)


def build_scheme(
    config: CacheConfig,
    lanes: Sequence[Lane],
    num_steps: int,
    num_blocks: int,
    span: range,
    published: Sequence[str] = (),
    shift: float | None = None,
) -> Scheme:
    """The segments of the method that ``config`` names; arguments as of :func:`dicache.methods.build_method`.

    Raises:
        ValueError: no block is left that could be skipped, or as in :func:`dicache.methods.build_method`.
    """
    method = build_method(config, lanes, num_steps, span, published, shift)
    first = (config.probe_depth or 1) if method.needs_probe else 0
    last = config.last_blocks
    if last and method.estimates_velocity:
        raise ValueError(
            f"cache.last_blocks is {last}, but this method estimates the model's velocity, after which no block can "
            "run: leave it out, or set cache.anchor to input or probe."
        )
    if first + last >= num_blocks:
        given = [f"cache.probe_depth is {first}"] * bool(first) + [f"cache.last_blocks is {last}"] * bool(last)
        raise ValueError(
            f"{' and '.join(given)}, but the model has {num_blocks} blocks: use at most {num_blocks - 1}"
            f"{' in all' if first and last else ''}, so that a skipped step skips something."
        )
    stop = num_blocks - last
    middle = Segment(first, stop, method.estimates_velocity), method
    return Scheme(first, (middle, (Segment(stop, num_blocks), None)) if last else (middle,))
