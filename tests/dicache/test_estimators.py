"""Estimators by the clock and by the probe, against their formulas written out once more as the authors run them."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from dicache.config import CacheConfig
from dicache.estimators.taylor import Taylor
from dicache.steps import History, Step
from tests.support.toy import COND, NUM_BLOCKS, block, drive, head, inputs, signal, steps

NUM_STEPS = 22
COMPUTED = (0, 1, 4, 6, 7, 12, 13, 14, 20)
STEPS = steps(NUM_STEPS)


def forward(index, depth=NUM_BLOCKS):
    hidden = inputs(COND, STEPS[index])
    for number in range(depth):
        hidden = block(hidden, number)
    return (hidden - inputs(COND, STEPS[index])).double().numpy().ravel()


R = {index: forward(index) for index in COMPUTED}
P = {index: forward(index, 1) for index in range(NUM_STEPS)}


def run(estimator, computed=COMPUTED, ranks=1, **settings):
    config = CacheConfig(
        method="interval", gate={"name": "list", "compute_steps": computed}, estimator=estimator, **settings
    )
    return drive(config, num_steps=NUM_STEPS, lanes=[COND], ranks=ranks)


def check(result, expected):
    """Expected: estimated residuals by step, as many as there are skipped steps."""
    actions = result.actions()
    assert set(expected) == {i for i, action in enumerate(actions) if action == "s"}
    for index, residual in expected.items():
        ours = result.outputs[index][COND] - inputs(COND, STEPS[index])
        np.testing.assert_allclose(ours.numpy().ravel(), residual, rtol=1e-4, atol=2e-5, err_msg=str(index))


def taylorseer(order, time, terms):
    """The derivatives are kept and divided as TaylorSeer's cache does, step after step."""
    derivatives, updated, estimates = [], None, {}
    for index in range(NUM_STEPS):
        if index in COMPUTED:
            new = [R[index]]
            for old in derivatives[:order]:
                new.append((new[-1] - old) / (time(index) - time(updated)))
            derivatives, updated = new, index
        else:
            k = time(index) - time(updated)
            estimates[index] = sum(terms[n](k) * d / math.factorial(n) for n, d in enumerate(derivatives))
    return estimates


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("clock", ["step", "sigma"])
def test_taylor(order, clock):
    time = float if clock == "step" else lambda index: 1 - STEPS[index].sigma
    expected = taylorseer(order, time, [lambda k: 1, lambda k: k, lambda k: k * k])
    result = run("taylor", order=order, clock=clock)
    check(result, expected)
    assert result.controllers[0].cache_bytes == (order + 1) * inputs(COND, STEPS[0]).nbytes


def test_the_clock_matters_where_noise_falls_unevenly():
    """The toy's noise falls evenly, so steps and noise levels say the same there: here they do not."""
    a, b, now = Step(0, 1.0, 0.9), Step(1, 0.9, 0.6), Step(2, 0.6, 0.1)
    history = History(COND, [a, b], 2)
    assert Taylor(1, "step").estimate(now, history, {}).coefficients == (2.0, -1.0)
    assert Taylor(1, "sigma").estimate(now, history, {}).coefficients == pytest.approx((4.0, -3.0))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("contraction", [0.5, 0.7])
def test_hermite(order, contraction):
    def basis(n):
        return lambda k: contraction**n * np.polynomial.hermite.hermval(contraction * k, [0] * n + [1])

    expected = taylorseer(order, float, [basis(n) for n in range(3)])
    check(run("hermite", order=order, contraction=contraction), expected)


def test_hermite_goes_forward():
    """At contraction √½ the first order is the line through two points, not its mirror image."""
    straight = run("taylor", order=1)
    hermite = run("hermite", order=1, contraction=math.sqrt(0.5))
    for a, b in zip(straight.decisions, hermite.decisions, strict=True):
        assert a[COND].coefficients == pytest.approx(b[COND].coefficients)
    assert any(len(decisions[COND].coefficients) > 1 for decisions in straight.decisions)


@pytest.mark.parametrize("order", [1, 2])
def test_adams_bashforth_takes_the_next_difference_as_zero(order):
    result = run("adams_bashforth", order=order)
    for index, decisions in enumerate(result.decisions):
        if decisions[COND].action == "s":
            past = [R[i] for i in COMPUTED if i < index][-order - 1 :]
            ours = (result.outputs[index][COND] - inputs(COND, STEPS[index])).double().numpy().ravel()
            np.testing.assert_allclose(np.diff([*past, ours], n=len(past), axis=0), 0, atol=1e-5)
    assert result.decisions[21][COND].coefficients == ((2.0, -1.0), (3.0, -3.0, 1.0))[order - 1]
    assert result.decisions[2][COND].coefficients == (2.0, -1.0), "with two computed steps there is no third"


def test_foca():
    """Every gap but the last follows two computed steps in a row, as the recursion over the last two values wants."""
    computed = (0, 1, 3, 4, 9, 10, 11, 17, 18)
    r = {index: forward(index) for index in computed}
    last, before, full, full_before, since, expected = None, None, None, None, 0, {}
    for index in range(NUM_STEPS):
        if index in computed:
            before, last = last, r[index]
            full_before, full, since = full, r[index], 0
            continue
        since += 1
        slopes = (full - full_before) + (last - before)
        estimate = full + since / 2 * slopes if since <= 3 else full + 3 / since * 1.5 * slopes
        before, last = last, estimate
        expected[index] = estimate
    result = run("foca", computed)
    check(result, expected)
    assert max(len(gap) for gap in result.actions().split("c")) == 5, "beyond three steps it falls back"


def differences(index):
    past = [i for i in COMPUTED if i < index][::-1]
    return past, [P[a] - P[b] for a, b in pairwise(past)]


def test_projection_is_least_squares_along_the_way_of_the_probe():
    result = run("projection", gamma_min=0.0, gamma_max=9.0)
    expected, free = {}, 0
    for index in range(NUM_STEPS):
        if index in COMPUTED:
            continue
        past, (d, *_) = differences(index)
        (gamma,) = np.linalg.lstsq(d[:, None], P[index] - P[past[1]], rcond=None)[0]
        assert result.decisions[index][COND].gamma == pytest.approx(np.clip(gamma, 0, 9), rel=1e-5)
        free += 0 < gamma < 9 and gamma != 1
        expected[index] = R[past[1]] + np.clip(gamma, 0, 9) * (R[past[0]] - R[past[1]])
    assert free > 5
    check(result, expected)
    bounded = {d[COND].gamma for d in run("projection", gamma_min=1.2, gamma_max=1.4).decisions}
    assert {1.2, 1.4} <= bounded, "both bounds are met"


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("shrinkage", [0.3, 2.0])
def test_ridge_is_least_squares_with_a_penalty(number, shrinkage):
    """Rows that ask for no difference at all, each weighed by its size, are the penalty."""
    result = run("ridge", differences=number, shrinkage=shrinkage)
    expected = {}
    for index in range(NUM_STEPS):
        if index in COMPUTED:
            continue
        past, basis = differences(index)
        basis = np.stack(basis[:number], axis=1)
        penalty = np.sqrt(shrinkage) * np.diag(np.linalg.norm(basis, axis=0))
        target = np.concatenate([P[index] - P[past[0]], np.zeros(len(penalty))])
        weights = np.linalg.lstsq(np.vstack([basis, penalty]), target, rcond=None)[0]
        expected[index] = R[past[0]] + sum(a * (R[past[i]] - R[past[i + 1]]) for i, a in enumerate(weights))
    check(result, expected)
    assert len(result.decisions[21][COND].coefficients) == number + 1
    assert result.controllers[0].cache_bytes == 2 * (number + 1) * inputs(COND, STEPS[0]).nbytes


@pytest.mark.parametrize("estimator", ["projection", "ridge"])
def test_a_probe_that_does_not_move_is_no_division_by_zero(estimator):
    config = CacheConfig(method="interval", gate={"interval": 3}, estimator=estimator)
    result = drive(config, lanes=[COND], source=lambda lane, step: inputs(COND, STEPS[0]))
    skipped = [decisions[COND] for decisions in result.decisions if decisions[COND].action == "skip"]
    assert skipped
    for decision in skipped:
        assert decision.coefficients[0] == 1.0
        assert all(c == 0.0 for c in decision.coefficients[1:])


def test_a_ridge_whose_older_difference_is_nothing_uses_the_newer_one():
    def still_until_4(lane, step):
        return inputs(COND, STEPS[max(step.index, 4)])

    config = CacheConfig(method="interval", gate={"name": "list", "compute_steps": (0, 3, 6)}, estimator="ridge")
    result = drive(config, lanes=[COND], source=still_until_4)
    p = [P[i] for i in (7, 6, 4)]
    d = p[1] - p[2]
    a = (p[0] - p[1]) @ d / (1.3 * (d @ d))
    assert result.decisions[7][COND].coefficients == pytest.approx((1 + a, -a, 0.0), rel=1e-4)


@pytest.mark.parametrize("anchor", ["input", "probe", "latents", "nothing"])
def test_an_estimate_is_added_to_its_anchor(anchor):
    config = CacheConfig(method="interval", gate={"interval": 3}, estimator="taylor", anchor=anchor)
    result = drive(config, num_steps=8, lanes=[COND])

    def at(index):
        x = inputs(COND, steps(8)[index])
        probe, y = block(x, 0), x
        for number in range(NUM_BLOCKS):
            y = block(y, number)
        latents = signal("latents", steps(8)[index], x)
        return {
            "input": (x, y),
            "probe": (probe, y),
            "latents": (latents, head(y)),
            "nothing": (torch.zeros_like(head(y)), head(y)),
        }[anchor]

    base, (a0, y0), (a3, y3) = at(5)[0], at(0), at(3)
    expected = base + (1 + 2 / 3) * (y3 - a3) - 2 / 3 * (y0 - a0)
    torch.testing.assert_close(result.outputs[5][COND], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.outputs[3][COND], y3)
    assert result.controllers[0].cache_bytes == 2 * y3.nbytes, "velocities are smaller than hidden states"
    assert result.controllers[0].probe_blocks == (1 if anchor == "probe" else 0)
