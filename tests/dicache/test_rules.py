"""Branches together or alone, samples apart, and the user's limits."""

import pytest

from dicache.config import CacheConfig
from dicache.controller import Lane
from tests.support.toy import COND, UNCOND, drive

BATCH = [Lane(sample, branch) for sample in (0, 1) for branch in ("cond", "uncond")]


def test_per_branch_the_branches_differ():
    run = drive(CacheConfig(threshold=0.25, decide="per_branch"))
    assert run.actions(COND) != run.actions(UNCOND)


def test_together_a_step_is_skipped_by_both_branches_or_by_none():
    run = drive(CacheConfig(threshold=0.25))
    assert run.actions(COND) == run.actions(UNCOND)
    assert "s" in run.actions()
    dragged = [
        (index, lane, other)
        for index, decisions in enumerate(run.decisions)
        for lane, other in ((COND, UNCOND), (UNCOND, COND))
        if decisions[lane].action == "compute" and decisions[lane].accumulated < 0.25
    ]
    assert dragged, "no step was computed for the other branch's sake: the test shows nothing"
    for index, lane, other in dragged:
        assert run.decisions[index][other].accumulated >= 0.25
        # no leftovers of a skip that did not take place, and a fresh start for the branch that was dragged along
        assert run.decisions[index][lane].coefficients == () and run.decisions[index][lane].gamma is None
        following = run.decisions[index + 1][lane]
        assert following.accumulated == following.indicator


def test_together_without_guidance_is_per_branch():
    alone = drive(CacheConfig(threshold=0.25), lanes=[COND])
    branch = drive(CacheConfig(threshold=0.25, decide="per_branch"), lanes=[COND, UNCOND])
    assert alone.actions(COND) == branch.actions(COND)


@pytest.mark.parametrize("decide", ["together", "per_branch"])
def test_samples_of_a_batch_decide_for_themselves(decide):
    config = CacheConfig(threshold=0.25, decide=decide)
    batch = drive(config, lanes=BATCH)
    assert batch.actions(BATCH[0]) != batch.actions(BATCH[2])
    for sample in (0, 1):
        lanes = [lane for lane in BATCH if lane.sample == sample]
        alone = drive(config, lanes=lanes)
        for step, decisions in enumerate(alone.decisions):
            assert decisions == {lane: batch.decisions[step][lane] for lane in lanes}


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_a_limit_on_consecutive_skips(limit):
    run = drive(CacheConfig(threshold=100.0, max_consecutive_skips=limit))
    assert run.actions() == ("wwww" + ("s" * limit + "c") * 16)[:20]
    if limit:
        forced = run.decisions[4 + limit][COND]
        assert forced.indicator is not None and forced.accumulated < 100.0
        assert forced.coefficients == () and forced.gamma is None
        following = run.decisions[5 + limit][COND]
        assert following.accumulated == following.indicator


def test_a_limit_holds_for_a_fixed_list_too():
    run = drive(CacheConfig(method="interval", gate={"interval": 5}, max_consecutive_skips=2), num_steps=12)
    assert run.actions() == "csscscsscscs"


def test_the_last_step_can_be_forced():
    assert drive(CacheConfig(threshold=100.0)).actions().endswith("ss")
    run = drive(CacheConfig(threshold=100.0, force_last=True))
    assert run.actions().endswith("sc")
    assert run.decisions[-1][COND].indicator is not None
    assert (
        drive(CacheConfig(method="interval", gate={"interval": 5}, force_last=True), num_steps=9).actions()
        == "csssscssc"
    )
