"""The innovation gate: what the estimate misses of the probe, written out with whole tensors."""

import numpy as np
import pytest
from pydantic import ValidationError

from dicache.config import CacheConfig
from tests.support.toy import COND, UNCOND, block, drive, inputs, steps

NUM_STEPS = 20


def probe_residual(lane, index):
    x = inputs(lane, steps(NUM_STEPS)[index])
    return (block(x, 0) - x).double().numpy().ravel()


def config(estimator, threshold, **given):
    return CacheConfig(gate="innovation", estimator=estimator, threshold=threshold, warmup_steps=1, **given)


@pytest.mark.parametrize(
    ("estimator", "given"),
    [
        ("reuse", {}),
        ("alignment", {"gamma_min": 0.0}),
        ("taylor", {"order": 1}),
        ("taylor", {"order": 2}),
        ("ridge", {}),
        ("foca", {}),
    ],
)
def test_the_indicator_is_the_miss_times_the_samplers_step_over_the_signal(estimator, given):
    run = drive(config(estimator, 0.1, decide="per_branch", **given))
    for lane in (COND, UNCOND):
        computed, accumulated, skipped = [0], 0.0, 0
        for index in range(1, NUM_STEPS):
            decision = run.decisions[index][lane]
            past = computed[::-1]
            if decision.action == "skip":
                expected = sum(c * probe_residual(lane, i) for c, i in zip(decision.coefficients, past, strict=False))
                miss = np.linalg.norm(probe_residual(lane, index) - expected)
                indicator = miss / np.linalg.norm(probe_residual(lane, past[0])) / NUM_STEPS
                indicator /= 1.03 - steps(NUM_STEPS)[index].sigma
                assert decision.indicator == pytest.approx(indicator, rel=1e-4)
                accumulated += indicator
                assert accumulated < 0.1
                skipped += 1
            else:
                assert decision.accumulated >= 0.1
                accumulated = 0.0
                computed.append(index)
            if decision.action == "skip":
                assert decision.accumulated == pytest.approx(accumulated, rel=1e-4)
        assert 3 < skipped < 18
    depth = {"reuse": 1, "alignment": 2, "ridge": 3, "foca": 2}.get(estimator, given.get("order", 0) + 1)
    tensor = inputs(COND, steps(NUM_STEPS)[0]).nbytes
    assert run.controllers[0].cache_bytes == 2 * 2 * depth * tensor, "as many residuals of the probe as of the blocks"


def test_a_better_estimate_skips_more():
    """On a curve that bends little, the line through the last two computed steps misses less than reuse does."""
    actions = {name: drive(config(name, 0.02)).actions().count("s") for name in ("reuse", "taylor")}
    assert actions["taylor"] > actions["reuse"] > 0


def test_a_probe_that_stands_still_is_skipped():
    run = drive(config("ridge", 1e-9), lanes=[COND], source=lambda lane, step: inputs(COND, steps(NUM_STEPS)[0]))
    assert run.actions() == "w" + "s" * 19


@pytest.mark.parametrize("ranks", [2, 3, 15])
def test_a_split_changes_nothing(ranks):
    one, many = drive(config("ridge", 0.1)), drive(config("ridge", 0.1), ranks=ranks)
    assert many.actions() == one.actions() and {"s", "c"} <= set(one.actions())
    for alone, together in zip(one.decisions, many.decisions, strict=True):
        expected = alone[COND].indicator
        assert together[COND].indicator == (expected and pytest.approx(expected, rel=1e-9))


def test_weights_that_do_not_add_up_are_refused():
    """The gate's formula is of differences between residuals, which leave out what is missing to 1."""
    section = {"method": "innovation", "estimator": "fitted", "calibration": "c.json"}
    with pytest.raises(ValidationError, match=r"cache\.estimator is fitted, whose weights do not add up to 1"):
        CacheConfig.model_validate(section)
    assert CacheConfig.model_validate({**section, "replay": "r.json"}).estimator_name == "fitted", "no gate is asked"
