"""Improves lists of computed steps by trial runs: errors of several skips interact, which the placement ignores."""

from collections.abc import Callable, Iterator, Sequence

from dicache.calibration.placement import LONGEST_GAP

Steps = tuple[int, ...]
Attempt = Callable[[Steps, Sequence[float] | None], Sequence[float] | None]
_FEWEST = 3
"""The number of prompts that are run before a list may be given up."""


def refine(starts: Sequence[Steps], attempt: Attempt, num_steps: int, trials: int) -> tuple[Steps, list[float], int]:
    """Local search: the best of the starting lists, its steps moved by one as long as that lowers the error.

    Args:
        starts: lists of equal length, in ascending order, that begin with steps 0 and 1.
        attempt: runs a list and returns the error of each prompt, or None if they are no better than the given errors.
        num_steps: denoise steps of the request.
        trials: the largest number of lists to try beside the first.

    Returns:
        The list, its error for each prompt, and the number of other lists that were tried.
    """
    best = starts[0]
    found = attempt(best, None)
    assert found is not None, "nothing is better than nothing"
    errors, tried = list(found), {best}

    def helps(candidate: Steps) -> bool:
        nonlocal best, errors
        if candidate in tried or len(tried) > trials:
            return False
        tried.add(candidate)
        found = attempt(candidate, errors)
        if found is None:
            return False
        best, errors = candidate, list(found)
        return True

    for start in starts[1:]:
        helps(start)
    moved = True
    while moved:
        moved = False
        for place in range(2, len(best)):
            for shift in (1, -1):
                while (candidate := _moved(best, place, shift, num_steps)) and helps(candidate):
                    moved = True
    return best, errors, len(tried) - 1


def race(errors: Iterator[float], against: Sequence[float] | None) -> list[float] | None:
    """Take the errors of one list prompt by prompt, and give up once they are worse than those of another list.

    Args:
        errors: computed one by one when they are asked for.
        against: the other list's errors of the same prompts; None never gives up.

    Returns:
        All errors, or None if it was given up: their sum was no less than the other list's over the same prompts.
    """
    seen: list[float] = []
    for error in errors:
        seen.append(error)
        behind = against is not None and sum(seen) >= sum(against[: len(seen)])
        if behind and len(seen) >= min(_FEWEST, len(against or ())):
            return None
    return seen


def _moved(steps: Steps, place: int, shift: int, num_steps: int) -> Steps | None:
    """The list with one step moved, or None if it would meet a neighbour or leave too long a gap."""
    to = steps[place] + shift
    last = steps[place + 1] if place + 1 < len(steps) else num_steps
    room = steps[place - 1] < to < last and to - steps[place - 1] <= LONGEST_GAP and last - to <= LONGEST_GAP
    return (*steps[:place], to, *steps[place + 1 :]) if room else None
