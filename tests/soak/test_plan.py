"""What the soak kills, and that it sees what is wrong."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.jobs.options import Options
from launch.queue.lost_gangs import LEASE_SECONDS
from launch.queue.records import JobRecord, State, Wish
from tests.soak.__main__ import judge
from tests.soak.gangs import Gang
from tests.soak.plan import RANKS, describe, every_phase, share_out, troubles

WANTED = [["latents 0", "frames 0"], ["latents 1", "frames 1"]]


def test_every_rank_is_killed_in_every_phase_and_then_by_chance() -> None:
    first, second = share_out(200, 2, seed=3)
    assert len(first) + len(second) == 200 and abs(len(first) - len(second)) <= 1
    assert first[: len(every_phase())] == every_phase()
    for rank in range(RANKS):
        phases = {where for of, where, how, _ in every_phase() if of == rank and how == "kill"}
        assert phases >= {"load", "warmup", "skip", "compute", "checkpoint", "decode", "commit"}
    assert {how for _, _, how, _ in (*first, *second)} == {"kill", "driver", "freeze", "hang", "node"}
    assert share_out(200, 2, seed=3) == [first, second] != share_out(200, 2, seed=4)
    assert share_out(5, 1, seed=0) == [every_phase()[:5]]


def test_every_trouble_is_met_and_then_by_chance() -> None:
    planned = troubles(40, 3, can_mount=True)
    assert len(planned) == 40 and planned == troubles(40, 3, can_mount=True) != troubles(40, 4, can_mount=True)
    kinds = {"full disk", "locked queue", "stopped driver", "raylet", "head"}
    assert {what for what, _ in planned[:5]} == kinds == {what for what, _ in planned}
    assert {what for what, _ in troubles(40, 3, can_mount=False)} == kinds - {"full disk"}
    assert max(seconds for what, seconds in planned if what == "stopped driver") > LEASE_SECONDS
    assert describe([(0, "load", "kill", 0.0)], planned[:2]) == "rank 1, full disk 1, locked queue 1"


class Told(Gang):
    """A gang that says what a test gives it."""

    def __init__(self, made: list[list[str]]) -> None:
        self._made = made

    @property
    def met(self) -> Any:
        return [(0, "load", "kill", 0.0)]

    @property
    def made(self) -> list[list[str]]:
        return self._made


@pytest.fixture
def done(tmp_path: Path) -> list[JobRecord]:
    """Two jobs that went well."""
    jobs = []
    for seed in range(2):
        video = tmp_path / f"{seed}.mp4"
        hashes = dict(zip(("latents_sha256", "frames_sha256"), WANTED[seed], strict=True))
        video.with_suffix(".json").write_text(json.dumps({"output": hashes}))
        options = Options("c.yaml", ("x",), seeds=(seed,), output=video)
        jobs.append(
            JobRecord(
                *(seed, State.SUCCEEDED, Wish.RUN, options, {}, 0.0, 0.0, 0.0),
                *(2, 0, 1, 0, None, "gang-1", None),
            )
        )
    return jobs


def test_a_verdict(done: list[JobRecord]) -> None:
    made = [["began", "7", "0.mp4"], ["made", "8", "0.mp4"], ["made", "8", "1.mp4"]]
    good = judge(done, [Told(made)], WANTED, [])
    assert good.is_good
    assert str(good) == ("jobs done 2, faults 1 (rank 1), jobs lost 0, duplicates 0, wrong videos 0, processes left 0")
    failed = judge([done[0], replace(done[1], state=State.FAILED)], [Told(made)], WANTED, [])
    again = judge(done, [Told(made), Told([["made", "9", "0.mp4"]])], WANTED, [])
    at_once = judge(done, [Told([*made, ["twice", "9", "1.mp4"]])], WANTED, [])
    others = judge(done, [Told(made)], WANTED[::-1], [])
    left = judge(done, [Told(made)], WANTED, ["process 7"])
    counts = Counter({"lost": len(failed.lost), "duplicates": len(again.duplicates), "wrong": len(others.wrong)})
    assert counts == {"lost": 1, "duplicates": 1, "wrong": 2}
    assert len(at_once.duplicates) == 1
    assert not any(verdict.is_good for verdict in (failed, again, at_once, others, left))
