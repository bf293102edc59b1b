"""A request leaves nothing behind: finished, aborted, or run beside another."""

import gc
import weakref

import pytest
import torch

from dicache.config import CacheConfig
from dicache.controller import Controller, Observation
from tests.support.toy import COND, NUM_BLOCKS, UNCOND, block, drive, follow, inputs, steps

CONFIG = CacheConfig(threshold=0.25)


def same(a, b):
    return a.decisions == b.decisions and all(
        torch.equal(x[lane], y[lane]) for x, y in zip(a.outputs, b.outputs, strict=True) for lane in x
    )


@pytest.mark.parametrize("until", [1, 7, 20])
@pytest.mark.parametrize("method", ["dicache", "fbcache", "interval", "easycache", "taylorseer", "innovation"])
def test_a_request_after_another_equals_a_fresh_one(method, until):
    config = CONFIG.model_copy(update={"method": method})
    fresh = drive(config)
    before = drive(config, until=until, source=lambda lane, step: 3 - inputs(UNCOND, step))  # until 20: finished
    assert same(drive(config), fresh)
    assert len(before.decisions) == until


def test_requests_side_by_side_do_not_meet():
    """Two requests take turns, step by step, as on an engine that serves both."""
    expected = drive(CONFIG, lanes=[COND]), drive(CONFIG, lanes=[UNCOND])
    controllers = [Controller(CONFIG, [lane], 20, NUM_BLOCKS) for lane in (COND, UNCOND)]
    for step in steps(20):
        for lane, controller, run in zip((COND, UNCOND), controllers, expected, strict=True):
            x = inputs(lane, step)
            shown = Observation(x, block(x, 0))
            plan = controller.decide(step, {lane: controller.partial_sums(step, lane, shown).tolist()})[lane]
            assert plan == run.plans[step.index][lane]
            follow(controller, lane, plan, shown)


def test_the_tensors_die_with_the_controller():
    run = drive(CONFIG)
    buffers = [weakref.ref(slot) for slot in _slots(run.controllers[0])]
    assert len(buffers) == 10
    run.controllers.clear()
    gc.collect()
    assert not any(buffer() is not None for buffer in buffers)


def _slots(controller):
    return [
        slot
        for cache in controller._by_key.values()
        for trajectory in [cache._trajectory]
        for ring in (*trajectory._signals.values(), trajectory._residuals)
        for slot in ring._slots
    ]
