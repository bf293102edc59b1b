"""However the tokens are split: the same decisions and the same outputs. What one rank sees alone is not enough."""

import pytest
import torch

from dicache.config import CacheConfig
from dicache.controller import Controller, Observation
from tests.support.toy import COND, NUM_BLOCKS, TOKENS, UNCOND, block, drive, follow, inputs, steps

CONFIGS = [
    CacheConfig(threshold=0.25),
    CacheConfig(threshold=0.25, decide="per_branch", probe_depth=2),
    CacheConfig(method="fbcache", threshold=0.2),
    CacheConfig(method="interval", gate={"interval": 3}, estimator="taylor"),
    CacheConfig(
        method="teacache",
        threshold=1.0,
        gate={"polynomial": (2.0, 0.5, 0.01), "signal": "modulated_input"},
        decide="per_branch",
        estimator="projection",
    ),
    CacheConfig(
        method="teacache", threshold=0.5, gate={"polynomial": (2.0, 0.5, 0.01), "signal": "timestep_embedding"}
    ),
    CacheConfig(method="magcache", gate={"ratios": (1.0, 0.98, 0.95)}, estimator="ridge"),
    CacheConfig(method="easycache", threshold=0.4, warmup_steps=3),
    CacheConfig(method="taylorseer", gate={"interval": 3}, estimator={"order": 2, "clock": "sigma"}),
    CacheConfig(method="hicache", gate={"interval": 4}),
    CacheConfig(method="abcache", gate={"interval": 3}),
    CacheConfig(method="foca", gate={"interval": 5}),
    CacheConfig(gate="first_block", threshold=0.2, estimator="alignment"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.method}-{c.gate_name}-{c.decide}-{c.estimator_name}")
@pytest.mark.parametrize("ranks", [2, 3, 4, 7, TOKENS + 2])
def test_a_split_changes_nothing(config, ranks):
    """TOKENS is prime, so no rank count divides it; with TOKENS + 2 ranks two of them hold no token."""
    one, many = drive(config), drive(config, ranks=ranks)
    for alone, together in zip(one.decisions, many.decisions, strict=True):
        for lane in (COND, UNCOND):
            assert together[lane].action == alone[lane].action
            for name in ("indicator", "accumulated", "gamma"):
                expected = getattr(alone[lane], name)
                # the summands are equal, only the order of adding them differs: float64 rounding
                assert getattr(together[lane], name) == (expected and pytest.approx(expected, rel=1e-12))
            assert together[lane].coefficients == pytest.approx(alone[lane].coefficients, rel=1e-9, abs=1e-9)
    assert {"s", "c"} <= set(one.actions()), "the case must skip and compute to show anything"
    for alone, together in zip(one.outputs, many.outputs, strict=True):
        for lane in (COND, UNCOND):
            torch.testing.assert_close(together[lane], alone[lane], rtol=1e-6, atol=1e-6)


def test_ranks_alone_would_disagree():
    """Without the agreement the ranks of this very run fall apart: the split test can fail."""
    config = CacheConfig(threshold=0.25)
    alone = []
    for rank in range(2):
        schedule = drive(config, source=lambda lane, step, r=rank: inputs(lane, step).tensor_split(2, dim=1)[r])
        alone.append(schedule)
    assert alone[0].actions() != alone[1].actions()


def test_a_threshold_between_the_ranks_is_decided_by_all_tokens():
    """The two halves see different changes; a threshold between them still gives one decision, that of the whole."""
    config = CacheConfig(threshold=0.25, decide="per_branch")

    def indicator(source):
        return drive(config, lanes=[COND], source=source).decisions[4][COND].indicator

    halves = [indicator(lambda lane, step, r=r: inputs(lane, step).tensor_split(2, dim=1)[r]) for r in range(2)]
    low, high = sorted(halves)
    whole = indicator(inputs)
    assert low * 1.02 < whole < high / 1.02
    for threshold, action in (((low + whole) / 2, "compute"), ((high + whole) / 2, "skip")):
        config = CacheConfig(threshold=threshold)
        assert drive(config, lanes=[COND], ranks=2).decisions[4][COND].action == action


def test_a_rank_follows_lanes_that_it_does_not_hold():
    """cfg-parallel: each rank holds one branch, and still the gates of both advance on both."""
    config = CacheConfig(threshold=0.25, decide="per_branch")
    expected = drive(config)
    controllers = {lane: Controller(config, [COND, UNCOND], 20, NUM_BLOCKS) for lane in (COND, UNCOND)}
    for step in steps(20):
        shown = {lane: Observation(x := inputs(lane, step), block(x, 0)) for lane in controllers}
        sums = {
            lane: controller.partial_sums(step, lane, shown[lane]).tolist() for lane, controller in controllers.items()
        }
        for lane, controller in controllers.items():
            assert {other: controller.num_sums(step, other) for other in sums} == {o: len(s) for o, s in sums.items()}
            plans = controller.decide(step, sums)
            assert plans == expected.plans[step.index]
            follow(controller, lane, plans[lane], shown[lane])
    one_lane = 5 * inputs(COND, steps(20)[0]).nbytes
    assert all(controller.cache_bytes == one_lane for controller in controllers.values())
