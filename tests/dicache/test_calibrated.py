"""The brake and the release against their formulas written out again, on velocities that are known."""

import math
from itertools import pairwise

import numpy as np
import pytest

from dicache.calibration.products import Products
from dicache.estimators.estimator import Estimate
from dicache.gates.calibrated import CalibratedGate
from dicache.steps import Decision, History, Step
from tests.support.calibrated_toy import BRANCHES, GRAM, MIXING, PLACED, SIZES, STEPS, V, rows, velocities
from tests.support.toy import COND

COMPUTE = PLACED[5].compute
PRODUCTS = Products(BRANCHES, MIXING, tuple(map(tuple, rows(GRAM))))
SKIP = Estimate((1.0,))


def gate(**changes):
    """Of a brake alone: prompts of this toy have little in common."""
    settings = {"compute": COMPUTE, "products": PRODUCTS, "sizes": SIZES.tolist(), "brake": 3.0, "strange": math.inf}
    return CalibratedGate(**settings | changes)


def measured(term, velocities, computed):
    a, b = (velocities[computed[-operand.age], 0] for operand in term.operands)
    return float(a @ b)


def follow(gate, velocities):
    """One lane through all steps of a prompt, [steps, branches, dim]: the steps that it computes, and all votes."""
    history, votes = History(COND), {}
    for index in range(STEPS):
        step, computed = Step(index, 1.0, 0.9), [past.index for past in history.computed]
        skip = bool(computed) and gate.may_skip(step, COND)
        if skip:
            known = [term for term in gate.sums if all(operand.exists(history) for operand in term.operands)]
            sums = {term: measured(term, velocities, computed) for term in known}
            votes[index] = gate.vote(step, history, sums, SKIP)
            skip = votes[index].skip
        vote = votes.get(index)
        history.advance(step, Decision("skip" if skip else "compute", accumulated=vote and vote.accumulated))
    return [past.index for past in history.computed], votes


def surprise_by_hand(velocities, computed):
    newest, *known = computed[::-1][:4]
    columns = np.stack([V[:, index, 0].ravel() for index in known], axis=1)
    weights = np.linalg.lstsq(columns, V[:, newest, 0].ravel(), rcond=None)[0]
    seen = np.linalg.norm(V[:, newest, 0].ravel() - columns @ weights) / np.linalg.norm(V[:, newest, 0])
    own = velocities[:, 0]
    expected = seen * np.linalg.norm(own[newest])
    missed = np.linalg.norm(own[newest] - weights @ own[known])
    return missed / min(expected, np.linalg.norm(own[newest] - own[known[0]]))


def expected_damage(step, known):
    return SIZES[step] * PRODUCTS.miss(step, known, PRODUCTS.fit(step, known))


def test_prompts_like_the_calibrations_keep_to_the_plan():
    for prompt in V:
        computed, votes = follow(gate(), prompt)
        assert tuple(computed) == COMPUTE and votes
        for index, vote in votes.items():
            before = [step for step in COMPUTE if step < index]
            if len(before) > 1:
                assert vote.indicator == pytest.approx(surprise_by_hand(prompt, before), rel=1e-2)
            skipped = range(before[-1] + 1, index + 1)
            planned = sum(expected_damage(step, before[::-1][:3]) for step in skipped)
            assert vote.accumulated == pytest.approx(vote.indicator * planned, rel=1e-6)


def test_the_brake_computes_where_a_prompt_goes_another_way():
    other = velocities(seed=4)[0] + np.random.default_rng(2).normal(size=V[0].shape)
    computed, _ = follow(gate(), other)
    assert set(COMPUTE) < set(computed)
    braked = min(set(computed) - set(COMPUTE))
    assert surprise_by_hand(other, [step for step in COMPUTE if step < braked]) > 3
    assert tuple(follow(gate(brake=1e9), other)[0]) == COMPUTE
    assert tuple(follow(gate(brake=None), other)[0]) == COMPUTE


def test_a_shuffled_calibration_is_caught():
    """Its weights do worse than reuse, though it expects as much."""
    order = np.random.default_rng(0).permutation(STEPS)
    shuffled = GRAM[order][:, :, order]
    computed, _ = follow(gate(products=Products(BRANCHES, MIXING, tuple(map(tuple, rows(shuffled))))), V[0])
    assert len(computed) > len(COMPUTE)


def test_weights_that_do_worse_than_reuse_brake():
    """Nothing else tells them: with the calibration's own prompts they missed as much."""
    nearly_still = 1.0 + 1e-3 * V[0]
    computed, votes = follow(gate(), nearly_still)
    braked = min(set(computed) - set(COMPUTE))
    before = [step for step in computed if step < braked]
    assert votes[braked].indicator == pytest.approx(surprise_by_hand(nearly_still, before), rel=1e-2)


def test_the_release_skips_a_planned_step_where_little_is_lost():
    foretold, alone = V[0].copy(), PRODUCTS.alone("cond")
    for position, newest in enumerate(COMPUTE[1:], start=1):  # each exactly what the weights make of those before it
        known = COMPUTE[:position][::-1][:3]
        weights = alone.fit(newest, known)
        foretold[newest, 0] = sum(w * foretold[step, 0] for w, step in zip(weights, known, strict=True))
    computed, votes = follow(gate(release=0.5), foretold)
    released = min(set(COMPUTE) - set(computed))
    before = [step for step in COMPUTE if step < released]
    plan = sum(expected_damage(step, before[::-1][:3]) for step in range(before[-1] + 1, released))
    assert plan > 0 and votes[released].accumulated <= 0.5 * plan
    for prompt in V:
        assert tuple(follow(gate(release=1e-9), prompt)[0]) == COMPUTE


def strangeness_by_hand(velocities, computed):
    """The mean |ln| of the last three changes over the calibration's."""
    own, seen, factors = velocities[:, 0], V[:, :, 0], []
    for older, newer in list(pairwise(computed))[-3:]:
        change = np.linalg.norm(own[newer] - own[older]) / np.linalg.norm(own[newer])
        expected = np.linalg.norm(seen[:, newer] - seen[:, older]) / np.linalg.norm(seen[:, newer])
        factors.append(abs(math.log(change / expected)))
    return sum(factors) / len(factors)


@pytest.mark.parametrize("faster", [0.1, 0.5, 0.9, 1.0, 1.1, 2.0, 10.0])
def test_nothing_is_skipped_while_changes_are_out_of_proportion(faster):
    """Too large or too small; nor before there was one."""
    prompt = 5.0 + V[0].copy()
    prompt[1:] += (faster - 1) * (V[0, 1:] - V[0, :1])
    computed, votes = follow(gate(brake=1e9, strange=1.5), prompt)
    assert computed[:2] == [0, 1]
    verdicts = set()
    for index, vote in votes.items():
        before = [step for step in computed if step < index]
        if index not in COMPUTE and len(before) > 1:
            verdicts.add(vote.skip)
            assert vote.skip == (strangeness_by_hand(prompt, before) <= math.log(1.5)), index
    assert verdicts
    for unchecked in (gate(brake=None, strange=1.5), gate(brake=None, release=1e-9, strange=1.5)):
        assert tuple(follow(unchecked, prompt)[0]) == COMPUTE


def test_what_moves_though_it_was_never_seen_to_move_is_computed():
    still = np.ones((1, STEPS, 2, 4))
    gram = np.einsum("pibd,pjcd->ibjc", still, still)
    vote_gate = gate(products=Products(BRANCHES, MIXING, tuple(map(tuple, rows(gram)))))
    moving = np.concatenate([still[0], V[0, :, :, :4]], axis=-1)
    computed, votes = follow(vote_gate, moving)
    assert computed != list(COMPUTE) and all(
        vote.indicator is None or not math.isnan(vote.indicator) for vote in votes.values()
    )
