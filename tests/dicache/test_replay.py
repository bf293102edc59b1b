"""A recorded schedule is repeated exactly, or refused."""

import json

import pytest
import torch

from dicache.config import CacheConfig
from dicache.controller import Lane
from tests.support.toy import COND, UNCOND, drive


def report(run, drop_sample=False):
    entries = [
        {"step": index, "sample": lane.sample, "branch": lane.branch, "action": d.action, "indicator": d.indicator}
        for index, decisions in enumerate(run.decisions)
        for lane, d in decisions.items()
    ]
    if drop_sample:
        entries = [{key: entry[key] for key in entry if key != "sample"} for entry in entries]
    return {"schema": 1, "steps": entries}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.json"


@pytest.mark.parametrize("method", ["dicache", "fbcache"])
@pytest.mark.parametrize("decide", ["together", "per_branch"])
def test_a_replay_repeats_actions_and_outputs(path, method, decide):
    config = CacheConfig(method=method, threshold=0.25, warmup_ratio=0.2, decide=decide, max_consecutive_skips=4)
    recorded = drive(config)
    assert {"w", "c", "s"} == set(recorded.actions())
    path.write_text(json.dumps(report(recorded, drop_sample=True)))
    # settings of the gate no longer matter
    replayed = drive(
        CacheConfig(
            method=method, threshold=0.0, warmup_ratio=0.7, force_last=True, max_consecutive_skips=1, replay=path
        )
    )
    for before, after in zip(recorded.decisions, replayed.decisions, strict=True):
        for lane in before:
            assert after[lane].action == before[lane].action
            assert after[lane].coefficients == before[lane].coefficients
            assert after[lane].gamma == before[lane].gamma
    for before, after in zip(recorded.outputs, replayed.outputs, strict=True):
        for lane in before:
            assert torch.equal(before[lane], after[lane])


def test_a_batch_is_replayed_by_sample(path):
    lanes = [Lane(sample, branch) for sample in (0, 1) for branch in ("cond", "uncond")]
    recorded = drive(CacheConfig(threshold=0.25), lanes=lanes)
    path.write_text(json.dumps(report(recorded)))
    replayed = drive(CacheConfig(threshold=0.0, replay=path), lanes=lanes)
    assert all(recorded.actions(lane) == replayed.actions(lane) for lane in lanes)
    assert recorded.actions(lanes[0]) != recorded.actions(lanes[2])


def entry(step, action, branch="cond", **rest):
    return {"step": step, "branch": branch, "action": action, **rest}


GOOD = [entry(0, "compute"), entry(1, "skip"), entry(2, "compute")]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        ([], "has no list of steps"),
        ({"schema": 1}, "has no list of steps"),
        ({"steps": []}, "has no list of steps"),
        ({"steps": [7]}, "has the entry 7"),
        ({"steps": [{"step": 0, "branch": "cond"}]}, "has the entry {'step': 0, 'branch': 'cond'}"),
        ({"steps": [entry("0", "compute")]}, "has the entry"),
        ({"steps": [entry(0, "compute", sample=[])]}, "has the entry"),
        ({"steps": [entry(0, "jump")]}, "has the entry .*'jump'.* warmup, compute, skip"),
        ({"steps": [*GOOD, GOOD[1]]}, "lists step 1 of sample 0 cond twice"),
        ({"steps": [GOOD[0], GOOD[2]]}, r"lists the steps \[0, 2\]"),
        ({"steps": [entry(-1, "compute"), *GOOD]}, r"lists the steps \[-1, 0, 1, 2\]"),
        ({"steps": GOOD[:2]}, "has 2 steps of sample 0 cond, but this request has 3"),
        ({"steps": [*GOOD, entry(3, "skip")]}, "has 4 steps of sample 0 cond, but this request has 3"),
        (
            {"steps": [*GOOD, *(entry(i, "compute", "uncond") for i in range(3))]},
            "is of sample 0 cond, sample 0 uncond",
        ),
        ({"steps": [entry(i, "compute", "uncond") for i in range(3)]}, "is of sample 0 uncond, but this request is of"),
        ({"steps": [entry(i, "compute", sample=1) for i in range(3)]}, "is of sample 1 cond, but this request is of"),
        ({"steps": [entry(0, "skip"), *GOOD[1:]]}, "skips step 0 of sample 0 cond, before anything was computed"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(path, content, complaint):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ValueError, match=complaint) as caught:
        drive(CacheConfig(replay=path), num_steps=3, lanes=[COND])
    message = str(caught.value)
    assert message.startswith(f"cache.replay {str(path)!r} ") and message.endswith(".") and "\n" not in message


def test_the_good_report_of_the_table_is_accepted(path):
    path.write_text(json.dumps({"steps": GOOD}))
    assert drive(CacheConfig(replay=path), num_steps=3, lanes=[COND]).actions() == "csc"
    with pytest.raises(ValueError, match="but this request is of sample 0 cond, sample 0 uncond"):
        drive(CacheConfig(replay=path), num_steps=3, lanes=[COND, UNCOND])
