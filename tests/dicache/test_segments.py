"""A step as a plan of segments: methods that skip several ranges of blocks by themselves need no other controller."""

import json
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from dicache.config import CacheConfig
from dicache.controller import Controller, Observation, Segment
from dicache.estimators.reuse import Reuse
from dicache.estimators.taylor import Taylor
from dicache.gates.first_block import FirstBlockGate
from dicache.gates.fixed import FixedGate
from dicache.methods import Method
from dicache.rules import build_rules
from dicache.segments import Scheme
from dicache.steps import Lane
from tests.support.toy import COND, NUM_BLOCKS, UNCOND, Run, block, drive, inputs, steps

FRONT, MIDDLE, BACK = Segment(0, 1), Segment(1, 2), Segment(2, 3)
SKIPS = {FRONT: (2, 3, 6), BACK: (1, 3, 4, 6)}


def by_the_clock(skips: tuple[int, ...], lanes: tuple[Lane, ...] = (COND, UNCOND), order: int = 0) -> Method:
    """Residuals of the segment alone: what its blocks add to its input."""
    gate = FixedGate(dict.fromkeys(lanes, frozenset(skips)))
    return Method(gate, Taylor(order, "step") if order else Reuse(), anchor="probe")


def ranges(order: int = 0) -> Scheme:
    """Two ranges of blocks that are reused at steps of their own, and one between them that always runs."""
    front, back = (by_the_clock(SKIPS[segment], order=order) for segment in (FRONT, BACK))
    return Scheme(0, ((FRONT, front), (MIDDLE, None), (BACK, back)))


def run(monkeypatch: pytest.MonkeyPatch, scheme: Scheme, **kwargs) -> Run:
    monkeypatch.setattr("dicache.controller.build_scheme", lambda *_: scheme)
    return drive(CacheConfig(), num_steps=8, **kwargs)


def expected_outputs(lane: Lane, order: int = 0) -> list[Tensor]:
    """The same by hand: each range extrapolates its own residuals from the steps at which it ran."""
    kept: dict[Segment, list[tuple[int, Tensor]]] = {FRONT: [], BACK: []}
    outputs = []
    for step in steps(8):
        hidden = inputs(lane, step)
        for index, segment in enumerate((FRONT, MIDDLE, BACK)):
            if step.index in SKIPS.get(segment, ()):
                (newest, residual), *older = reversed(kept[segment])
                if order and older:
                    slope = (residual - older[0][1]) / (newest - older[0][0])
                    residual = residual + (step.index - newest) * slope
                hidden = hidden + residual
                continue
            output = block(hidden, index)
            if segment in kept:
                kept[segment].append((step.index, output - hidden))
            hidden = output
        outputs.append(hidden)
    return outputs


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("ranks", [1, 3])
def test_each_range_is_estimated_from_its_own_steps(monkeypatch, ranks: int, order: int) -> None:
    result = run(monkeypatch, ranges(order), ranks=ranks)
    for lane in (COND, UNCOND):
        for index, expected in enumerate(expected_outputs(lane, order)):
            torch.testing.assert_close(result.outputs[index][lane], expected, rtol=1e-5, atol=1e-5)
        actions = [[part.action[0] for part in plans[lane].decisions] for plans in result.plans]
        for segment, letters in zip((FRONT, BACK), zip(*actions, strict=True), strict=True):
            assert "".join(letters) == "".join("s" if i in SKIPS[segment] else "c" for i in range(8))
    one = inputs(COND, steps(8)[0]).nbytes
    assert sum(c.cache_bytes for c in result.controllers) == 2 * 2 * (order + 1) * one


def test_a_resumed_run_goes_on_with_the_tensors_of_each_segment(monkeypatch) -> None:
    whole = run(monkeypatch, ranges(order=1))
    for done in (1, 3, 5):
        begun = run(monkeypatch, ranges(order=1), until=done).controllers[0].snapshot()
        assert list(begun.histories) == [(lane, number) for lane in (COND, UNCOND) for number in (0, 1)]
        fresh = Controller(CacheConfig(), (COND, UNCOND), 8, NUM_BLOCKS)
        fresh.restore(begun)
        resumed = run(monkeypatch, ranges(order=1), span=range(done, 8), controllers=[fresh])
        assert resumed.plans == whole.plans[done:]
        for expected, outputs in zip(whole.outputs[done:], resumed.outputs, strict=True):
            assert all(torch.equal(outputs[lane], expected[lane]) for lane in expected)


def test_limits_hold_for_each_segment_by_itself(monkeypatch) -> None:
    front = by_the_clock(tuple(range(1, 8)))
    scheme = Scheme(0, ((Segment(0, 2), front), (BACK, by_the_clock((2, 3, 4)))))
    monkeypatch.setattr("dicache.controller.build_scheme", lambda *_: scheme)
    limited = drive(CacheConfig(max_consecutive_skips=2), num_steps=8)
    letters = ["".join(plans[COND].decisions[number].action[0] for plans in limited.plans) for number in (0, 1)]
    assert letters == ["csscsscs", "ccsscccc"]


def test_sums_of_several_segments_travel_together_and_reach_their_own_gate(monkeypatch) -> None:
    """The thresholds differ, and so do what two segments decide from one probe."""

    def gated(threshold: float) -> Method:
        return Method(FirstBlockGate(threshold), Reuse(), anchor="probe")

    seen: list[Mapping[Lane, list[float]]] = []

    def watch(step, sums):
        seen.append(sums)
        return sums

    result = run(monkeypatch, Scheme(1, ((MIDDLE, gated(0.12)), (BACK, gated(0.9)))), tamper=watch, ranks=2)
    assert {len(sums[COND]) for sums in seen} == {0, 4}
    alone = {}
    for threshold in (0.12, 0.9):
        monkeypatch.undo()
        alone[threshold] = drive(CacheConfig(method="fbcache", threshold=threshold), num_steps=8)
    for number, threshold in enumerate((0.12, 0.9)):
        mine = [plans[COND].decisions[number].action for plans in result.plans]
        assert mine == [decisions[COND].action for decisions in alone[threshold].decisions]
    assert {plans[COND].decisions[0].action == plans[COND].decisions[1].action for plans in result.plans} == {
        True,
        False,
    }


@pytest.mark.parametrize("anchor", ["input", "probe"])
def test_last_blocks_run_on_the_estimate_of_what_came_before_them(anchor: str) -> None:
    config = CacheConfig(method="dbcache", threshold=0.4, warmup_steps=2, last_blocks=1, anchor=anchor)
    result = drive(config, ranks=2)
    assert set("wcs") == set(result.actions())
    residual = torch.empty(0)
    for step, decisions, outputs in zip(steps(20), result.decisions, result.outputs, strict=True):
        x = inputs(COND, step)
        probe = block(x, 0)
        base = x if anchor == "input" else probe
        if decisions[COND].action != "skip":
            residual = block(probe, 1) - base
        torch.testing.assert_close(outputs[COND], block(base + residual, 2), rtol=1e-5, atol=1e-5)


def test_last_blocks_without_a_probe() -> None:
    result = drive(CacheConfig(method="interval", interval=2, last_blocks=2))
    assert result.controllers[0].probe_blocks == 0
    kept = [inputs(COND, step) for step in steps(20)]
    for index in range(1, 20, 2):
        entering = kept[index] + block(kept[index - 1], 0) - kept[index - 1]
        expected = block(block(entering, 1), 2)
        torch.testing.assert_close(result.outputs[index][COND], expected, rtol=1e-5, atol=1e-5)


def test_a_replayed_run_with_last_blocks(tmp_path) -> None:
    given = {"method": "dbcache", "threshold": 0.4, "warmup_steps": 2, "last_blocks": 1}
    recorded = drive(CacheConfig.model_validate(given))
    rows = [
        {"step": index, "branch": lane.branch, "action": decision.action}
        for index, decisions in enumerate(recorded.decisions)
        for lane, decision in decisions.items()
    ]
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"steps": rows}))
    replayed = drive(CacheConfig.model_validate(given | {"replay": report}))
    for before, after in zip(recorded.outputs, replayed.outputs, strict=True):
        assert all(torch.equal(before[lane], after[lane]) for lane in before)
    rows[-1]["segment"] = 1
    report.write_text(json.dumps({"steps": rows}))
    with pytest.raises(ValueError, match="of segment 1, but no method of this version"):
        drive(CacheConfig.model_validate(given | {"replay": report}))


@pytest.mark.parametrize(
    "segments",
    [
        ((MIDDLE, None), (BACK, None)),  # the first block is missing
        ((FRONT, None), (BACK, None)),  # a gap
        ((Segment(0, 2), None), (Segment(1, 3), None)),  # an overlap
        ((Segment(0, 2, with_head=True), None), (BACK, None)),  # blocks after a velocity
    ],
)
def test_segments_that_do_not_follow_one_another_are_refused(segments) -> None:
    with pytest.raises(ValueError, match="do not follow one another"):
        Scheme(0, segments)


def test_a_lane_of_another_window_is_another_lane() -> None:
    """Its branches decide together, and its tensors are its own."""
    lanes = [Lane(0, branch, window) for window in (0, 1) for branch in ("cond", "uncond")]
    assert build_rules(CacheConfig(), lanes, 4).groups == ((lanes[0], lanes[1]), (lanes[2], lanes[3]))
    controller = Controller(CacheConfig(method="interval", warmup_ratio=0.0), lanes, 4, NUM_BLOCKS)
    x = {lane: inputs(COND, steps(4)[0]) + number for number, lane in enumerate(lanes)}
    (segment,) = controller.cached_segments
    controller.decide(steps(4)[0], {})
    for lane in lanes:
        controller.record(lane, segment, Observation(x[lane], x[lane]), x[lane], 2 * x[lane])
    assert all(plan.is_estimated for plan in controller.decide(steps(4)[1], {}).values())
    for lane in lanes:
        shown = Observation(torch.zeros_like(x[lane]), x[lane])
        assert torch.equal(controller.estimate(lane, segment, shown, x[lane]), x[lane])
