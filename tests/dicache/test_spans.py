"""A controller that sees only the steps k to n, as that of an expert that takes over half-way."""

import json
from pathlib import Path

import pytest
import torch

from dicache.config import CacheConfig
from dicache.controller import Controller
from tests.support.toy import COND, NUM_BLOCKS, UNCOND, Run, drive, inputs, steps

EARLY, LATE = range(0, 7), range(7, 20)
METHODS = {
    "dicache": CacheConfig(threshold=0.25),
    "per branch": CacheConfig(threshold=0.25, decide="per_branch"),
    "no warm-up": CacheConfig(threshold=0.25, warmup_ratio=0.0, max_consecutive_skips=3),
    "fbcache": CacheConfig(method="fbcache", threshold=0.2, warmup_ratio=0.2),
    "interval": CacheConfig(method="interval", gate={"interval": 3}),
    "taylor": CacheConfig(method="interval", gate={"interval": 4}, estimator="taylor"),
    "taylorseer": CacheConfig(method="taylorseer", gate={"interval": 3}, warmup_ratio=0.2, estimator={"order": 2}),
    "easycache": CacheConfig(method="easycache", threshold=0.4, warmup_steps=3),
    "ridge": CacheConfig(threshold=0.25, estimator="ridge"),
}


def as_a_request_of_its_own(config: CacheConfig) -> Run:
    """The same inputs as at the steps of LATE, in a request that has no other steps."""
    return drive(
        config, num_steps=len(LATE), source=lambda lane, step: inputs(lane, steps(20)[step.index + LATE.start])
    )


@pytest.mark.parametrize("name", METHODS)
def test_its_steps_are_a_request_of_their_own(name):
    run, expected = drive(METHODS[name], span=LATE), as_a_request_of_its_own(METHODS[name])
    assert run.decisions == expected.decisions
    assert {"s", "c"} <= set(run.actions()), "the case must skip and compute to show anything"
    for outputs, reference in zip(run.outputs, expected.outputs, strict=True):
        assert all(torch.equal(outputs[lane], reference[lane]) for lane in reference)
    assert run.controllers[0].cache_bytes == expected.controllers[0].cache_bytes


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_ranks_agree_as_ever(ranks):
    alone, shared = drive(METHODS["dicache"], span=LATE), drive(METHODS["dicache"], span=LATE, ranks=ranks)
    assert shared.actions() == alone.actions()


def test_the_first_step_is_computed_whatever_the_settings():
    for config in (
        CacheConfig(warmup_ratio=0.0, threshold=100.0),
        CacheConfig(method="fbcache", warmup_ratio=0.0, threshold=100.0),
        CacheConfig(method="interval", gate={"compute_steps": (2, 11)}),
    ):
        assert drive(config, span=LATE).actions().startswith("cs")


def test_listed_steps_keep_their_numbers():
    config = CacheConfig(method="interval", gate={"compute_steps": (2, 5, 11, 19)})
    assert drive(config, span=EARLY).actions() == "cscsscs"
    assert drive(config, span=LATE).actions() == "csss" + "csssssss" + "c"
    with pytest.raises(ValueError, match=r"names step 20, but the last step of this request is 19"):
        Controller(CacheConfig(method="interval", gate={"compute_steps": (20,)}), [COND], 20, NUM_BLOCKS, EARLY)


def test_only_the_very_last_step_is_forced():
    config = CacheConfig(threshold=100.0, warmup_ratio=0.0, force_last=True)
    assert drive(config, span=EARLY).actions() == "c" + "s" * 6
    assert drive(config, span=LATE).actions() == "c" + "s" * 11 + "c"


def test_skips_in_a_row_are_counted_from_its_own_computed_steps():
    config = CacheConfig(threshold=100.0, warmup_ratio=0.0, max_consecutive_skips=2)
    assert drive(config, span=LATE).actions() == "csscsscsscssc"


def test_a_span_without_steps_is_no_error():
    for config in METHODS.values():
        assert Controller(config, [COND], 20, NUM_BLOCKS, range(20, 20)).cache_bytes == 0


def recorded(config: CacheConfig, path: Path) -> tuple[Run, Run]:
    """Both halves of a request of 20 steps, each with a controller of its own, and their common report."""
    halves = drive(config, span=EARLY), drive(config, span=LATE)
    rows = [
        {"step": index, "branch": lane.branch, "action": decision.action}
        for span, run in zip((EARLY, LATE), halves, strict=True)
        for index, decisions in zip(span, run.decisions, strict=True)
        for lane, decision in decisions.items()
    ]
    path.write_text(json.dumps({"steps": rows}))
    return halves


@pytest.mark.parametrize("name", ["dicache", "per branch", "fbcache"])
def test_a_report_of_both_halves_is_replayed_by_both(name, tmp_path):
    path = tmp_path / "run.json"
    halves = recorded(METHODS[name], path)
    assert "s" in halves[0].actions() and "w" in halves[1].actions()
    config = METHODS[name].model_copy(update={"threshold": 0.0, "warmup_ratio": 1.0, "replay": path})
    for span, before in zip((EARLY, LATE), halves, strict=True):
        after = drive(config, span=span)
        for lane in (COND, UNCOND):
            assert after.actions(lane) == before.actions(lane)
        for outputs, reference in zip(after.outputs, before.outputs, strict=True):
            assert all(torch.equal(outputs[lane], reference[lane]) for lane in reference)


def test_a_report_that_skips_the_first_of_its_steps_is_refused(tmp_path):
    path = tmp_path / "run.json"
    recorded(METHODS["dicache"], path)
    report = json.loads(path.read_text())
    skipped = next(row["step"] for row in report["steps"] if row["action"] == "skip" and row["step"] > 8)
    span = range(skipped, 20)  # the report of a request whose second expert took over earlier
    with pytest.raises(ValueError, match=rf"skips step {skipped} of sample 0 cond, before anything was computed"):
        Controller(CacheConfig(replay=path), [COND, UNCOND], 20, NUM_BLOCKS, span)
    Controller(CacheConfig(replay=path), [COND, UNCOND], 20, NUM_BLOCKS, range(20, 20))


def test_released_it_keeps_nothing():
    run = drive(METHODS["dicache"], span=EARLY)
    (controller,) = run.controllers
    assert controller.cache_bytes > 0
    controller.release()
    assert controller.cache_bytes == 0
