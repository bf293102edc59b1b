"""Placement against brute force, and the weights against least squares on the vectors themselves."""

import json
from itertools import combinations

import numpy as np
import pytest

from dicache.calibration import Budget, Calibration, Fitted, hash_prompt, read_calibration
from dicache.config import CacheConfig
from dicache.placement import place_steps
from dicache.steps import History, Step
from tests.dicache.toy import COND, UNCOND, drive, steps

STEPS, PROMPTS, DIM = 8, 3, 40
SIZES = np.linspace(0.05, 0.3, STEPS)


def velocities():
    """Curves that bend here more and there less."""
    generator = np.random.default_rng(3)
    bends = generator.normal(size=(PROMPTS, 4, DIM))
    times = np.array([0.0, 0.1, 0.5, 0.6, 0.8, 1.5, 1.6, 2.4])
    return np.einsum("pkd,kt->ptd", bends, np.stack([times**0, times, np.sin(3 * times), np.exp(-times)]))


V = velocities()
PLACED = place_steps(np.einsum("pid,pjd->pij", V, V), SIZES)


def by_hand(compute):
    """What a list costs, and its weights, from the velocities themselves."""
    damage, weights = 0.0, {}
    for step in sorted(set(range(STEPS)) - set(compute)):
        known = [index for index in sorted(compute, reverse=True) if index < step][:2]
        columns = np.stack([V[:, index].ravel() for index in known], axis=1)
        weights[step] = np.linalg.lstsq(columns, V[:, step].ravel(), rcond=None)[0]
        missed = V[:, step] - np.einsum("k,pkd->pd", weights[step], V[:, known])
        damage += SIZES[step] * np.linalg.norm(missed, axis=1).mean()
    return damage, weights


@pytest.mark.parametrize("count", range(1, STEPS + 1))
def test_no_other_list_of_that_length_costs_less(count):
    lists = [(0, *others) for others in combinations(range(1, STEPS), count - 1)]
    best = min(lists, key=lambda compute: by_hand(compute)[0])
    damage, weights = by_hand(best)
    placed = PLACED[count]
    assert placed.damage == pytest.approx(damage, rel=1e-4, abs=1e-6)
    assert len(placed.compute) == count and placed.weights.keys() == set(range(STEPS)) - set(placed.compute)
    if count < STEPS - 1:  # with one step skipped or none, several lists may cost next to nothing
        assert placed.compute == best
        for step, fitted in weights.items():
            assert placed.weights[step] == pytest.approx(fitted, rel=1e-3, abs=1e-5)


def write(path, **changes):
    budgets = [
        {"compute": placed.compute, "weights": placed.weights, "damage": placed.damage} for placed in PLACED.values()
    ]
    content = {"made_with": {}, "versions": {}, "prompts": [hash_prompt("a")], "steps": STEPS, "budgets": budgets}
    path.write_text(json.dumps(content | changes))
    return path


@pytest.mark.parametrize("ranks", [1, 3])
def test_exactly_the_listed_steps_are_computed_and_the_others_made_of_their_velocities(tmp_path, ranks):
    config = CacheConfig(method="calibrated", calibration=write(tmp_path / "c.json"), steps_skipped=0.5)
    run = drive(config, num_steps=STEPS, ranks=ranks)
    placed = PLACED[4]
    for lane in (COND, UNCOND):
        assert [i for i, action in enumerate(run.actions(lane)) if action == "c"] == list(placed.compute)
    assert all(c.num_sums(steps(STEPS)[3], COND) == 0 and c.probe_blocks == 0 for c in run.controllers)
    for step, weights in placed.weights.items():
        known = [index for index in reversed(placed.compute) if index < step]
        expected = sum(w * run.outputs[index][COND] for w, index in zip(weights, known, strict=False))
        np.testing.assert_allclose(run.outputs[step][COND], expected, rtol=1e-4, atol=1e-5)


def test_the_nearest_budget_is_taken(tmp_path):
    file = read_calibration(write(tmp_path / "c.json"))
    assert [len(file.nearest(share).compute) for share in (0.01, 0.3, 0.5, 0.99)] == [8, 6, 4, 1]


def test_weights_are_not_used_where_a_rule_computed_another_step():
    budget = Fitted({3: (1.5, -0.5)}, compute=(0, 2, 5))
    past = [Step(index, 1.0, 0.9) for index in (0, 1, 2)]
    asked = Step(3, 0.7, 0.6)
    assert budget.estimate(asked, History(COND, [past[0], past[2]]), {}).coefficients == (1.5, -0.5)
    assert budget.estimate(asked, History(COND, past), {}).coefficients == (1.0,)
    assert budget.estimate(Step(4, 0.5, 0.4), History(COND, past), {}).coefficients == (1.0,)


@pytest.mark.parametrize(
    "content, words",
    [(None, "cannot be read"), ("{}", "is no calibration"), ("[", "is no calibration")],
)
def test_a_file_that_is_none_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_calibration(tmp_path / "c.json")


def test_another_number_of_steps_is_refused(tmp_path):
    config = CacheConfig(method="calibrated", calibration=write(tmp_path / "c.json"))
    with pytest.raises(ValueError, match="is of 8 steps, and this request has 9"):
        drive(config, num_steps=9)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"method": "calibrated"}, "cache.calibration is left out"),
        ({"method": "dicache", "estimator": "fitted"}, "the gate is probe"),
        ({"method": "calibrated", "calibration": "c.json", "anchor": "input"}, "cache.anchor is input"),
    ],
)
def test_what_does_not_go_together_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        CacheConfig.model_validate(given)


def test_a_budget_survives_its_file(tmp_path):
    path = write(tmp_path / "c.json")
    again = Calibration.model_validate_json(read_calibration(path).model_dump_json())
    assert again.budgets[3] == Budget(compute=PLACED[4].compute, weights=PLACED[4].weights, damage=PLACED[4].damage)
