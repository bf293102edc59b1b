"""Which rank a hang is the fault of, by what each rank says or shows of itself.

A rank that waits for others is their victim, whether it stands in a collective operation, as over gloo, or in a wait
for its GPU, as over NCCL, whose operations return at once and are waited for where the host next needs a number.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

_INNERMOST = 4
_DECODING = ("decode", "write")
_IN_COLLECTIVE = ("torch/distributed/",)
_IN_HOST_WAIT = ("torch/cuda/", "parallel/agreement.py:", "parallel/audit.py:")
# what of torch has the host wait for a GPU
_HOST_WAIT = re.compile(r"\.(tolist|item|cpu|synchronize|nonzero)\(|\.to\(\"cpu\"|\b(int|float|bool)\(")


class Limits(Protocol):
    """Of :class:`engine.config.RuntimeConfig`."""

    @property
    def load_timeout_seconds(self) -> float: ...

    @property
    def step_timeout_seconds(self) -> float: ...


@dataclass(frozen=True)
class RankState:
    """What a rank that does not get on says of itself."""

    phase: str
    """As of :class:`launch.process.phase.PhaseKeeper`."""
    idle_seconds: float
    """Since it last got on."""
    stack: Sequence[str]
    """Of the thread that works, as :func:`stack_of` gives it; empty if the rank does not answer."""
    begun: int | None = None
    """Collective operations that it has begun, of all its groups; None: not known."""


def stack_of(thread: int) -> list[str]:
    """The stack of a thread: "file:line function: source" of each frame, outermost first.

    Args:
        thread: its identifier, as of :func:`threading.get_ident`.
    """
    frame = sys._current_frames().get(thread)  # noqa: SLF001  (documented, despite its name)
    frames = traceback.extract_stack(frame) if frame is not None else []
    return [f"{frame.filename}:{frame.lineno} {frame.name}: {frame.line}" for frame in frames]


def waits(stack: Sequence[str]) -> bool:
    """Whether a stack is that of a rank that waits for others: in a collective operation, or for its GPU."""
    if any(part in line for line in stack[-_INNERMOST:] for part in _IN_COLLECTIVE):
        return True
    if not stack:
        return False
    place, _, source = stack[-1].partition(": ")
    return any(part in place for part in _IN_HOST_WAIT) or bool(_HOST_WAIT.search(source))


def find_hung(states: Mapping[int, RankState]) -> int:
    """The rank that the others wait for.

    One that does not answer; else the one that has begun the fewest collective operations, since the others stand in,
    or over NCCL have gone past, one that it has not reached; else one that does not wait; else the one that has been
    idle for longest.

    Args:
        states: of all ranks that should go in step, by rank.
    """
    counts = [state.begun for state in states.values() if state.stack]
    known = None not in counts

    def precedence(rank: int) -> tuple[bool, int, bool, float]:
        state = states[rank]
        begun = state.begun if known and state.begun is not None else 0
        return bool(state.stack), begun, waits(state.stack), -state.idle_seconds

    return min(states, key=precedence)


def somebody_waits(states: Mapping[int, RankState]) -> bool:
    """Whether any rank waits for another, rather than that all are busy, each with work of its own."""
    counts = {state.begun for state in states.values() if state.stack and state.begun is not None}
    return len(counts) > 1 or any(waits(state.stack) for state in states.values())


def time_limit(limits: Limits, phase: str) -> float:
    """Seconds that a rank in a phase may wait for the others."""
    steady = phase.startswith("denoise step ") and not phase.startswith("denoise step 0")
    return limits.step_timeout_seconds if steady else limits.load_timeout_seconds


def gets_on(limits: Limits, state: RankState) -> bool:
    """Whether a rank for which others wait may go on: it decodes or writes, which may take longer than they may wait,
    and has shown within its limit that it is not stuck."""
    is_idle = state.idle_seconds > time_limit(limits, state.phase)
    return bool(state.stack) and not is_idle and state.phase.startswith(_DECODING)


def where(stack: Sequence[str]) -> str:
    """The innermost frame in a few words."""
    place, _, _ = stack[-1].partition(": ")
    file, _, function = place.rpartition(" ")
    return f"{'/'.join(file.split('/')[-2:])}, {function}"


def all_stacks(states: Mapping[int, RankState]) -> str:
    """The stacks of all ranks, for the traceback of a failure."""
    return "\n".join("\n  ".join([f"rank {rank}", *state.stack]) for rank, state in states.items())
