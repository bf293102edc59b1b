"""Placement against brute force, and the weights against least squares on the vectors themselves."""

import json
from itertools import combinations

import numpy as np
import pytest

from dicache.calibration.file import Calibration, ComputeBudget, hash_prompt, read_calibration
from dicache.calibration.placement import growth, place_steps
from dicache.calibration.products import Products, solve
from dicache.config import CacheConfig
from tests.support.calibrated_toy import BRANCHES, GRAM, GUIDED, MIXING, PLACED, PROMPTS, SIZES, STEPS, V, rows
from tests.support.toy import COND, UNCOND, drive, steps


def weights_by_hand(step, known):
    columns = np.stack([V[:, index, branch].ravel() for index in known for branch in range(2)], axis=1)
    return columns, np.linalg.lstsq(columns, GUIDED[:, step].ravel(), rcond=None)[0]


def by_hand(compute):
    """What a list costs, from the velocities themselves."""
    damage = 0.0
    for step in sorted(set(range(STEPS)) - set(compute)):
        known = [index for index in sorted(compute, reverse=True) if index < step][:3]
        columns, weights = weights_by_hand(step, known)
        damage += SIZES[step] * np.linalg.norm(GUIDED[:, step].ravel() - columns @ weights) / PROMPTS**0.5
    return damage


@pytest.mark.parametrize("count", range(2, STEPS + 1))
def test_no_other_list_of_that_length_costs_less(count):
    lists = [(0, 1, *others) for others in combinations(range(2, STEPS), count - 2)]
    best = min(lists, key=by_hand)
    placed = PLACED[count]
    assert placed.damage == pytest.approx(by_hand(best), rel=1e-4, abs=1e-3)
    assert len(placed.compute) == count
    assert by_hand(placed.compute) == pytest.approx(by_hand(best), rel=1e-4, abs=1e-3)
    if count < STEPS - 2:  # with few steps skipped, several lists may cost next to nothing
        assert placed.compute == best


def test_longer_gaps_than_the_longest_are_never_placed():
    steps = 40
    gram = np.einsum("id,jd->ij", *[np.ones((steps, 3)) + 0.001 * np.arange(steps)[:, None]] * 2)
    placed = place_steps(gram[:, None, :, None], (1.0,), [1.0] * steps)
    assert min(placed) == 4, "40 steps, at most 12 skipped in a row"
    assert all(b - a <= 13 for a, b in zip(placed[4].compute, [*placed[4].compute[1:], steps], strict=True))


def test_errors_are_dearer_the_more_noise_there_is():
    costs = [growth(sigma) for sigma in (0.0, 0.5, 0.9, 0.97, 1.0)]
    assert costs == sorted(costs) and 4 < costs[-1] / costs[0] < 8


@pytest.mark.parametrize("known", [(4,), (4, 1), (5, 3, 2)])
def test_weights_are_least_squares_on_the_vectors(known):
    products = Products(BRANCHES, MIXING, tuple(map(tuple, rows(GRAM))))
    columns, expected = weights_by_hand(6, known)
    weights = products.fit(6, known)
    np.testing.assert_allclose(columns @ weights, columns @ expected, rtol=1e-3, atol=1e-3)
    missed = np.linalg.norm(GUIDED[:, 6].ravel() - columns @ expected) / PROMPTS**0.5
    assert products.miss(6, known, weights) == pytest.approx(missed, rel=1e-4)


def test_a_branch_alone():
    alone = Products(BRANCHES, MIXING, tuple(map(tuple, rows(GRAM)))).alone("uncond")
    own = np.einsum("pid,pjd->ij", V[:, :, 1], V[:, :, 1]) / PROMPTS
    assert [alone.of(i, j) for i in range(STEPS) for j in range(STEPS)] == pytest.approx(own.ravel().tolist())


def test_systems_are_solved():
    matrix = np.random.default_rng(1).normal(size=(6, 9))
    matrix = matrix @ matrix.T
    right = np.arange(6.0)
    assert solve(matrix.tolist(), right.tolist()) == pytest.approx(np.linalg.solve(matrix, right), rel=1e-5)


def write(path, gram=GRAM, **changes):
    """A calibration of these velocities; of another one's if its inner products are given."""
    content = {
        "made_with": {},
        "versions": {},
        "prompts": [hash_prompt("a")],
        "steps": STEPS,
        "step_sizes": SIZES.tolist(),
        "branches": BRANCHES,
        "mixing": MIXING,
        "products": rows(gram),
        "budgets": [{"compute": placed.compute, "damage": placed.damage} for placed in PLACED.values()],
    }
    path.write_text(json.dumps(content | changes))
    return path


@pytest.mark.parametrize("ranks", [1, 3])
def test_exactly_the_listed_steps_are_computed_and_the_others_made_of_their_velocities(tmp_path, ranks):
    config = CacheConfig(
        method="calibrated", calibration=write(tmp_path / "c.json"), gate={"steps_skipped": 0.5, "brake": None}
    )
    run = drive(config, num_steps=STEPS, ranks=ranks)
    placed = PLACED[4]
    for lane in (COND, UNCOND):
        assert [i for i, action in enumerate(run.actions(lane)) if action == "c"] == list(placed.compute)
    for step in sorted(set(range(STEPS)) - set(placed.compute)):
        known = [index for index in reversed(placed.compute) if index < step][:3]
        _, weights = weights_by_hand(step, known)
        guided = sum(m * run.outputs[step][lane] for m, lane in zip(MIXING, (COND, UNCOND), strict=True))
        parts = [run.outputs[index][lane] for index in known for lane in (COND, UNCOND)]
        expected = sum(w * part for w, part in zip(weights, parts, strict=True))
        np.testing.assert_allclose(guided, expected, rtol=1e-2, atol=1e-3)


def test_without_brake_and_release_nothing_is_measured(tmp_path):
    config = CacheConfig(
        method="calibrated", calibration=write(tmp_path / "c.json"), gate={"steps_skipped": 0.5, "brake": None}
    )
    run = drive(config, num_steps=STEPS)
    assert not any(c.num_sums(step, COND) or c.probe_blocks for c in run.controllers for step in steps(STEPS))


def test_the_nearest_budget_is_taken(tmp_path):
    file = read_calibration(write(tmp_path / "c.json"))
    assert [len(file.nearest(share).compute) for share in (0.01, 0.3, 0.5, 0.99)] == [8, 6, 4, 2]


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "cannot be read"),
        ("{}", "is no calibration"),
        ("[", "is no calibration"),
        ({"products": [[1.0]]}, "is no calibration"),
        ({"products": [[1.0]] * 16}, "is no calibration"),
        ({"schema_": 1}, "is no calibration"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, content, words):
    if isinstance(content, dict):
        write(tmp_path / "c.json", **content)
    elif content is not None:
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
        ({"method": "dicache", "estimator": "fitted"}, "cache.calibration is left out"),
        ({"method": "calibrated", "calibration": "c.json", "anchor": "input"}, "cache.anchor is input"),
    ],
)
def test_what_does_not_go_together_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        CacheConfig.model_validate(given)


def test_a_budget_survives_its_file(tmp_path):
    path = write(tmp_path / "c.json")
    again = Calibration.model_validate_json(read_calibration(path).model_dump_json())
    assert again.budgets[2] == ComputeBudget(compute=PLACED[4].compute, damage=PLACED[4].damage)
