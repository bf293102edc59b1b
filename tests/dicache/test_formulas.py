"""The methods decide and estimate as their formulas say, written out here once more without seams."""

import pytest
import torch

from dicache.config import CacheConfig
from tests.support.toy import COND, NUM_BLOCKS, UNCOND, block, drive, inputs, steps


def forward(lane, step, depth=NUM_BLOCKS):
    hidden = inputs(lane, step)
    for index in range(depth):
        hidden = block(hidden, index)
    return hidden


def mean(tensor):
    return tensor.double().abs().mean().item()


def dicache(lane, num_steps, threshold, warmup, depth, gamma_max=2.0):
    accumulated, previous, computed = 0.0, None, []
    for step in steps(num_steps):
        x, probe, y = inputs(lane, step), forward(lane, step, depth), forward(lane, step)
        indicator = gamma = None
        action = "warmup" if step.index < warmup else "compute"
        if step.index >= warmup and computed:
            indicator = mean(probe - previous) / mean(previous)
            accumulated += indicator
            action = "skip" if accumulated < threshold else "compute"
        shown = accumulated if indicator is not None else None
        if action == "skip":
            r1, p1 = computed[-1]
            y = x + r1
            if len(computed) > 1:
                r2, p2 = computed[-2]
                gamma = min(max(mean(probe - x - p2) / mean(p1 - p2), 1.0), gamma_max)
                y = x + r2 + gamma * (r1 - r2)
        else:
            computed.append((y - x, probe - x))
            accumulated = 0.0
        previous = probe
        yield action, indicator, shown, gamma, y


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.2])
def test_dicache_decides_and_aligns_as_published(depth, warmup_ratio):
    config = CacheConfig(threshold=0.25, warmup_ratio=warmup_ratio, probe_depth=depth, decide="per_branch")
    run = drive(config)
    for lane in (COND, UNCOND):
        expected = list(dicache(lane, 20, 0.25, int(warmup_ratio * 20), depth))
        assert {action for action, *_ in expected} >= {"compute", "skip"}
        assert any(gamma not in (None, 1.0, 2.0) for *_, gamma, _ in expected)
        for index, (action, indicator, accumulated, gamma, y) in enumerate(expected):
            decision = run.decisions[index][lane]
            assert decision.action == action
            assert decision.indicator == (None if indicator is None else pytest.approx(indicator, rel=1e-6))
            assert decision.accumulated == (None if accumulated is None else pytest.approx(accumulated, rel=1e-6))
            assert decision.gamma == (None if gamma is None else pytest.approx(gamma, rel=1e-6))
            torch.testing.assert_close(run.outputs[index][lane], y, rtol=1e-5, atol=1e-5)


def test_gamma_stays_in_its_range():
    free = drive(CacheConfig(threshold=0.6, estimator={"gamma_max": 9.0}, decide="per_branch"))
    gammas = [d[COND].gamma for d in free.decisions if d[COND].gamma is not None]
    assert max(gammas) > 1.3 and min(gammas) > 1.0
    bounded = drive(CacheConfig(threshold=0.6, estimator={"gamma_min": 1.1, "gamma_max": 1.3}, decide="per_branch"))
    gammas = [d[COND].gamma for d in bounded.decisions if d[COND].gamma is not None]
    assert set(gammas) >= {1.3} and all(1.1 <= gamma <= 1.3 for gamma in gammas)
    coefficients = next(d[COND].coefficients for d in bounded.decisions if d[COND].gamma == 1.3)
    assert coefficients == (1.3, 1.0 - 1.3)


def test_fbcache_compares_with_the_last_computed_step_and_anchors_at_the_probe():
    threshold = 0.2
    run = drive(CacheConfig(method="fbcache", threshold=threshold, warmup_ratio=0.1, decide="per_branch"))
    for lane in (COND, UNCOND):
        p1 = tail = None
        for step in steps(20):
            x, probe, y = inputs(lane, step), forward(lane, step, 1), forward(lane, step)
            decision = run.decisions[step.index][lane]
            if step.index < 2:
                assert decision.action == "warmup" and decision.indicator is None
            else:
                indicator = mean(p1 - (probe - x)) / mean(p1)
                assert decision.indicator == pytest.approx(indicator, rel=1e-6)
                assert decision.action == ("skip" if indicator < threshold else "compute")
            assert decision.accumulated is None and decision.gamma is None
            if decision.action == "skip":
                y = probe + tail
            else:
                p1, tail = probe - x, y - probe
            torch.testing.assert_close(run.outputs[step.index][lane], y, rtol=1e-5, atol=1e-5)
        assert set(run.actions(lane)) == {"w", "c", "s"}


def test_interval_computes_every_nth_step_and_measures_nothing():
    run = drive(CacheConfig(method="interval", gate={"interval": 3}), num_steps=8)
    assert run.actions() == "csscsscs"
    assert run.controllers[0].probe_blocks == 0
    assert all(run.controllers[0].num_sums(step, COND) == 0 for step in steps(8))
    decision = run.decisions[1][COND]
    assert (decision.indicator, decision.accumulated, decision.gamma) == (None, None, None)
    expected = inputs(COND, steps(8)[2]) + forward(COND, steps(8)[0]) - inputs(COND, steps(8)[0])
    torch.testing.assert_close(run.outputs[2][COND], expected)


def test_interval_takes_a_list_and_always_computes_step_0():
    run = drive(CacheConfig(method="interval", gate={"compute_steps": (3, 4)}), num_steps=6)
    assert run.actions() == "cssccs"
    assert drive(CacheConfig(method="interval", gate={"compute_steps": ()}), num_steps=4).actions() == "csss"


def test_taylor_extends_the_line_through_the_last_two_computed_steps():
    run = drive(CacheConfig(method="interval", estimator="taylor", gate={"compute_steps": (2, 5)}), num_steps=9)
    assert [d[COND].coefficients for d in run.decisions] == [
        (),
        (1.0,),
        (),
        (1 + 1 / 2, -1 / 2),
        (1 + 2 / 2, -2 / 2),
        (),
        (1 + 1 / 3, -1 / 3),
        (1 + 2 / 3, -2 / 3),
        (1 + 3 / 3, -3 / 3),
    ]
    r = {i: forward(COND, steps(9)[i]) - inputs(COND, steps(9)[i]) for i in (2, 5)}
    expected = inputs(COND, steps(9)[7]) + (1 + 2 / 3) * r[5] - 2 / 3 * r[2]
    torch.testing.assert_close(run.outputs[7][COND], expected, rtol=1e-5, atol=1e-5)


def test_none_computes_everything_and_keeps_nothing():
    run = drive(CacheConfig(method="none"))
    assert run.actions() == "c" * 20
    assert run.controllers[0].cache_bytes == 0
    assert run.controllers[0].probe_blocks == 0
