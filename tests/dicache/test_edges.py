"""Where denominators vanish, histories are short or numbers are not finite."""

import math
import re

import pytest
import torch

from dicache.config import CacheConfig
from dicache.controller import Controller, Observation
from dicache.estimators.alignment import Alignment
from dicache.estimators.estimator import Estimate
from dicache.gates.first_block import FirstBlockGate
from dicache.gates.gate import relative
from dicache.gates.probe import ProbeGate
from dicache.steps import History
from tests.support.toy import COND, DIM, NUM_BLOCKS, TOKENS, drive, inputs, only, steps

STEPS = steps(10)
AT = ("compute", "skip")  # what cache.gate.at_threshold may say


def two_computed():
    return History(COND, computed=STEPS[:2], num_steps=2)


def test_relative_change_without_a_denominator():
    assert relative(0.0, 0.0) == 0.0
    assert relative(1e-30, 0.0) == math.inf
    assert relative(1.0, 4.0) == 0.25


@pytest.mark.parametrize("gate", [ProbeGate(0.1), FirstBlockGate(0.1)])
def test_a_probe_of_zeros_is_skipped_while_it_stays_and_computed_once_it_moves(gate):
    still = gate.vote(STEPS[2], two_computed(), {gate.change: 0.0, gate.size: 0.0}, Estimate((1.0,)))
    assert still.skip and still.indicator == 0.0
    moved = gate.vote(STEPS[2], two_computed(), {gate.change: 1.0, gate.size: 0.0}, Estimate((1.0,)))
    assert not moved.skip and moved.indicator == math.inf


@pytest.mark.parametrize("gate", [ProbeGate(0.0), FirstBlockGate(0.0)])
def test_threshold_0_never_skips(gate):
    assert not gate.vote(STEPS[2], two_computed(), {gate.change: 0.0, gate.size: 1.0}, Estimate((1.0,))).skip


@pytest.mark.parametrize("gate", [ProbeGate(0.25), FirstBlockGate(0.25)])
def test_the_threshold_itself_computes(gate):
    sums = {gate.change: 1.0, gate.size: 4.0}
    assert not gate.vote(STEPS[2], two_computed(), sums, Estimate((1.0,))).skip
    sums[gate.change] = math.nextafter(1.0, 0)
    assert gate.vote(STEPS[2], two_computed(), sums, Estimate((1.0,))).skip


def test_the_threshold_itself_skips_where_that_is_published():
    gate = ProbeGate(0.25, inclusive=True)
    sums = {gate.change: 1.0, gate.size: 4.0}
    assert gate.vote(STEPS[2], two_computed(), sums, Estimate((1.0,))).skip
    sums[gate.change] = math.nextafter(1.0, 2)
    assert not gate.vote(STEPS[2], two_computed(), sums, Estimate((1.0,))).skip


def test_a_run_that_hits_its_threshold_exactly():
    measured = drive(CacheConfig(threshold=0.25), lanes=[COND])
    first = measured.actions().index("c")
    threshold = measured.decisions[first][COND].accumulated
    actions = {
        at: drive(CacheConfig(threshold=threshold, gate={"at_threshold": at}), lanes=[COND]).actions() for at in AT
    }
    assert actions["compute"][: first + 1] == measured.actions()[: first + 1]
    assert actions["skip"][: first + 1] == measured.actions()[:first] + "s"


@pytest.mark.parametrize("gate", [ProbeGate(0.1), ProbeGate(0.1, inclusive=True), FirstBlockGate(0.1)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_never_skipped(gate, bad):
    assert not gate.vote(STEPS[2], two_computed(), {gate.change: bad, gate.size: 1.0}, Estimate((1.0,))).skip
    assert not gate.vote(STEPS[2], two_computed(), {gate.change: bad, gate.size: bad}, Estimate((1.0,))).skip


def test_an_infinite_indicator_does_not_outlive_the_computed_step():
    def tamper(step, sums):
        return {lane: [math.inf, *s[1:]] if step.index == 6 else s for lane, s in sums.items()}

    run = drive(CacheConfig(threshold=10.0), lanes=[COND], tamper=tamper)
    assert run.decisions[6][COND].indicator == math.inf
    assert run.actions() == "wwwwssc" + "s" * 13
    assert run.decisions[7][COND].accumulated == run.decisions[7][COND].indicator


@pytest.mark.parametrize("travelled", [0.0, 3.0, math.nan])
def test_gamma_without_a_direction_is_its_minimum(travelled):
    alignment = Alignment(1.0, 2.0)
    sums = {alignment.travelled: travelled, alignment.known: 0.0}
    estimate = alignment.estimate(STEPS[3], two_computed(), sums)
    assert estimate == Estimate((1.0, 0.0), 1.0)


def test_gamma_of_a_nan_is_its_minimum():
    alignment = Alignment(1.0, 2.0)
    sums = {alignment.travelled: math.nan, alignment.known: 2.0}
    assert alignment.estimate(STEPS[3], two_computed(), sums).gamma == 1.0


def test_the_very_first_step_is_computed_and_measures_nothing():
    controller = Controller(CacheConfig(warmup_ratio=0.0, threshold=100.0), [COND], 10, NUM_BLOCKS)
    x = torch.ones(1, TOKENS, DIM)
    assert controller.num_sums(STEPS[0], COND) == 0
    assert controller.partial_sums(STEPS[0], COND, Observation(x, x)).shape == (0,)
    assert only(controller.decide(STEPS[0], {})[COND]).action == "compute"


def test_one_computed_step_is_reused_without_gamma():
    run = drive(CacheConfig(threshold=100.0, warmup_ratio=0.0), lanes=[COND])
    assert run.actions() == "c" + "s" * 19
    assert run.decisions[1][COND].coefficients == (1.0,)
    assert run.decisions[1][COND].gamma is None
    # the previous probe and one computed step: what the gate's two sums need
    controller = Controller(CacheConfig(warmup_ratio=0.0), [COND], 10, NUM_BLOCKS)
    controller.decide(STEPS[0], {})
    assert controller.num_sums(STEPS[1], COND) == 2


@pytest.mark.parametrize("steps_of_warmup", [("fbcache", 20, 0.2, 4), ("dicache", 14, 0.2, 2), ("dicache", 9, 0.1, 0)])
def test_the_share_of_warmup_is_rounded_down(steps_of_warmup):
    method, num_steps, ratio, expected = steps_of_warmup
    run = drive(CacheConfig(method=method, warmup_ratio=ratio), num_steps=num_steps)
    assert run.actions().count("w") == expected
    assert run.actions().startswith("w" * expected)


def test_warmup_1_computes_everything_without_measuring():
    run = drive(CacheConfig(warmup_ratio=1.0), num_steps=5)
    assert run.actions() == "wwwww"
    assert not any(run.controllers[0].num_sums(step, COND) for step in steps(5))


def test_a_sum_too_few_is_refused():
    controller = Controller(CacheConfig(warmup_ratio=0.0), [COND], 10, NUM_BLOCKS)
    controller.decide(STEPS[0], {})
    with pytest.raises(ValueError, match="1 sums to step 1, but 2 were asked for"):
        controller.decide(STEPS[1], {COND: [1.0]})


def test_estimating_after_a_computed_step_is_a_bug_of_the_caller():
    controller = Controller(CacheConfig(), [COND], 10, NUM_BLOCKS)
    controller.decide(STEPS[0], {})
    x = inputs(COND, STEPS[0])
    with pytest.raises(AssertionError, match="warmup"):
        controller.estimate(COND, controller.cached_segments[0], Observation(x, x), x)


@pytest.mark.parametrize("depth", [3, 4])
def test_a_probe_as_deep_as_the_model_is_refused(depth):
    with pytest.raises(ValueError, match=rf"cache.probe_depth is {depth}, but the model has 3 blocks"):
        Controller(CacheConfig(probe_depth=depth), [COND], 10, NUM_BLOCKS)
    Controller(CacheConfig(method="interval"), [COND], 10, NUM_BLOCKS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"last_blocks": 2},
            "probe_depth is 1 and cache.last_blocks is 2, but the model has 3 blocks: use at most 2 in",
        ),
        ({"method": "interval", "last_blocks": 3}, "last_blocks is 3, but the model has 3 blocks: use at most 2, so"),
        ({"method": "taylorseer", "last_blocks": 1}, "estimates the model's velocity, after which no block can run"),
        ({"anchor": "latents", "last_blocks": 1}, "set cache.anchor to input or probe"),
    ],
)
def test_last_blocks_that_leave_nothing_to_estimate_or_follow_a_velocity_are_refused(given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Controller(CacheConfig(**given), [COND], 10, NUM_BLOCKS)


def test_a_listed_step_that_the_request_lacks_is_refused():
    with pytest.raises(ValueError, match=r"cache\.gate\.compute_steps names step 10, but the last step .* is 9"):
        Controller(CacheConfig(method="interval", gate={"compute_steps": (2, 10)}), [COND], 10, NUM_BLOCKS)


@pytest.mark.parametrize("method", ["dicache", "fbcache"])
def test_reported_numbers_are_python_floats(method):
    run = drive(CacheConfig(method=method))
    for decisions in run.decisions:
        for d in decisions.values():
            numbers = [d.indicator, d.accumulated, d.gamma, *d.coefficients]
            assert all(n is None or type(n) is float for n in numbers)
    assert any(decisions[COND].indicator for decisions in run.decisions), "else nothing was looked at"
