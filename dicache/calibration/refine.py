"""Lists of computed steps, bettered by trying others: errors meet on the way, which no sum of single ones foresees."""

from collections.abc import Callable, Iterator, Sequence

from dicache.calibration.placement import LONGEST_GAP

Steps = tuple[int, ...]
Attempt = Callable[[Steps, Sequence[float] | None], Sequence[float] | None]
_FEWEST = 3
"""Prompts that are run before a list may be given up."""


def refine(starts: Sequence[Steps], attempt: Attempt, num_steps: int, trials: int) -> tuple[Steps, list[float], int]:
    """The best list found: that of the starts which does best, its steps moved one by one for as long as that helps.

    Args:
        starts: lists of equal length, rising, that begin with steps 0 and 1.
        attempt: the error of each prompt with a list; or None, if that is no better than the errors it is given.
        num_steps: denoise steps of the request.
        trials: lists to try beside the first, at most.

    Returns:
        The list, its errors, and how many others were tried.
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
    """Error after error, until so many have come that they are worse than those of another list with the same prompts:
    then None. A list that is much worse costs a few runs only."""
    seen: list[float] = []
    for error in errors:
        seen.append(error)
        behind = against is not None and sum(seen) >= sum(against[: len(seen)])
        if behind and len(seen) >= min(_FEWEST, len(against or ())):
            return None
    return seen


def _moved(steps: Steps, place: int, shift: int, num_steps: int) -> Steps | None:
    """The list with one step earlier or later, if there is room."""
    to = steps[place] + shift
    last = steps[place + 1] if place + 1 < len(steps) else num_steps
    room = steps[place - 1] < to < last and to - steps[place - 1] <= LONGEST_GAP and last - to <= LONGEST_GAP
    return (*steps[:place], to, *steps[place + 1 :]) if room else None
