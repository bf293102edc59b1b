"""Lists bettered by trying: against an error that is known in closed form."""

from collections.abc import Sequence

from dicache.calibration.placement import LONGEST_GAP
from dicache.calibration.refine import Steps, race, refine

NUM_STEPS = 20


def away_from(best: Steps, seen: list[Steps]):
    """Two prompts, whose errors are how far each step is from where it should be."""

    def attempt(compute: Steps, against: Sequence[float] | None) -> list[float] | None:
        seen.append(compute)
        far = float(sum(abs(a - b) for a, b in zip(compute, best, strict=True)))
        return race(iter([far, 2 * far]), against)

    return attempt


def test_finds_the_best_list_step_by_step() -> None:
    seen: list[Steps] = []
    best = (0, 1, 5, 11, 17)
    found, errors, tried = refine([(0, 1, 2, 3, 9)], away_from(best, seen), NUM_STEPS, trials=500)
    assert found == best and errors == [0.0, 0.0]
    assert tried == len(seen) - 1 == len(set(seen)) - 1, "none twice"
    for compute in seen:
        assert list(compute) == sorted(set(compute)) and compute[:2] == (0, 1) and compute[-1] < NUM_STEPS
        assert all(b - a <= LONGEST_GAP for a, b in zip(compute, (*compute[1:], NUM_STEPS), strict=True) if a)


def test_begins_with_the_best_of_several_and_keeps_to_its_trials() -> None:
    seen: list[Steps] = []
    best = (0, 1, 8, 16)
    starts = [(0, 1, 2, 12), (0, 1, 2, 10), (0, 1, 8, 15)]
    found, _, tried = refine(starts, away_from(best, seen), NUM_STEPS, trials=3)
    assert seen[:3] == starts and tried == 3 and len(seen) == 4
    assert found in ((0, 1, 8, 15), best)
    assert refine([best], away_from(best, []), NUM_STEPS, trials=100)[0] == best


def test_a_list_that_is_behind_is_given_up() -> None:
    run: list[int] = []

    def errors(values: list[float]):
        for number, value in enumerate(values):
            run.append(number)
            yield value

    assert race(errors([2.0, 2.0, 2.0, 0.0, 0.0]), [1.0] * 5) is None and run == [0, 1, 2]
    run.clear()
    assert race(errors([2.0, 0.5, 0.4, 1.0, 1.0]), [1.0] * 5) == [2.0, 0.5, 0.4, 1.0, 1.0], "it has caught up"
    assert race(errors([0.5, 0.5, 0.5, 9.0, 0.5]), [1.0] * 5) is None
    assert race(errors([1.0]), [1.0]) is None, "as bad is not better"
    assert race(errors([3.0, 4.0]), None) == [3.0, 4.0]
