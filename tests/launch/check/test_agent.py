"""What an agent makes of processes that raise, end, hang or get no processor."""

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch.check import agent
from launch.check.agent import run_lines
from launch.check.board import OwnBoard
from launch.check.finding import Finding, State
from launch.check.starting import Assignment
from launch.check.table import Line
from tests.support.check_site import CHECK_INJECTED, line_called, small_config

pytestmark = pytest.mark.timeout(120)
LINES = [Line(name, "", "", 2.0, 2.0, True) for name in ("first", "second", "third")]
Heard = dict[str, Finding]


class Audience:
    """Remembers."""

    def __init__(self) -> None:
        self.findings: Heard = {}

    def began(self, line: Line) -> None: ...

    def told(self, line: Line, finding: Finding) -> None:
        self.findings[line.name] = finding

    def alive(self) -> None: ...


def checked(folder: Path, ranks: int = 1, agents: int = 1, seconds: float = 2.0, **play: dict[str, Any]) -> Heard:
    """What the first agent heard of the lines, which were acted as ``play`` says: by line and rank."""
    audience, board = Audience(), OwnBoard()
    lines = [replace(line, cpu_seconds=seconds) for line in LINES]

    def run(own: range) -> None:
        config = json.dumps(play)
        program = "tests.support.check_worker"
        run_lines(Assignment(ranks, own, len(own), "cpu", config, "127.0.0.1", folder, program), lines, board, audience)

    each = ranks // agents
    others = [threading.Thread(target=run, args=(range(first, first + each),)) for first in range(each, ranks, each)]
    for other in others:
        other.start()
    run(range(each))
    for other in others:
        other.join(20)
        assert not other.is_alive()
    assert not psutil.Process().children(recursive=True), "left behind"
    return audience.findings


def states(findings: Heard) -> list[str]:
    return [findings[line.name].state.value for line in LINES]


def test_all_lines_are_told(tmp_path: Path) -> None:
    assert states(checked(tmp_path, ranks=2)) == states(checked(tmp_path, ranks=2, agents=2)) == ["holds"] * 3


def test_a_line_that_waits_in_vain_falls_short(tmp_path: Path) -> None:
    findings = checked(tmp_path, ranks=2, second={"1": ["wait"], "0": ["wait"]})
    assert states(findings) == ["holds", "falls short", "holds"]
    assert findings["second"].reason == "it did not end within 2 s"
    findings = checked(tmp_path, ranks=2, second={"0": ["wait"]})
    assert findings["second"].reason == "it did not end within 2 s; rank 0 had not done its part"


def test_a_line_that_gets_no_processor_is_not_judged(tmp_path: Path) -> None:
    started = time.monotonic()
    findings = checked(tmp_path, seconds=1.0, first={"0": ["spin"]})
    assert states(findings) == ["not here", "holds", "holds"]
    assert time.monotonic() - started > 1.5, "it had more time than on a quiet machine"
    reason = findings["first"].reason
    assert reason.startswith("it did not end within ") and "the machine is busy" in reason, reason


@pytest.mark.parametrize("agents", [1, 2])
def test_who_raised_an_error_is_named_and_not_who_waits_for_it(
    agents: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_OTHERS_SECONDS", 0.2)
    error = "rank 1: RuntimeError: no kernel"
    findings = checked(tmp_path, 2, agents, 30.0, second={"0": ["wait"], "1": ["raise", error]})
    assert states(findings) == ["holds", "falls short", "holds"] and findings["second"].reason == error, findings


@pytest.mark.parametrize("agents", [1, 2])
@pytest.mark.parametrize(
    ("signal", "state", "words"),
    [
        ("SIGSEGV", "falls short", "the process of rank 1 was ended by SIGSEGV"),
        ("SIGKILL", "falls short", "the process of rank 1 was ended by SIGKILL"),
        (
            "SIGTERM",
            "not here",
            "the process of rank 1 was ended by SIGTERM, which nothing in the check sends",
        ),
    ],
)
def test_how_a_process_ended_is_said(agents: int, signal: str, state: str, words: str, tmp_path: Path) -> None:
    findings = checked(tmp_path, 2, agents, 30.0, second={"0": ["wait"], "1": ["end_by", signal]})
    assert states(findings) == ["holds", state, "holds"] and findings["second"].reason == words, findings


@pytest.mark.slow
def test_a_worker_that_never_ends_a_line_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHECK_INJECTED), prepend=os.pathsep)
    monkeypatch.setenv("LOCKSTEP_CHECK_FAULT", "endless")
    lines = [replace(line_called("copies"), cpu_seconds=1.0), line_called("links")]
    audience = Audience()
    assignment = Assignment(1, [0], 1, "cpu", small_config().model_dump_json(), "127.0.0.1", tmp_path)
    run_lines(assignment, lines, OwnBoard(), audience)
    assert audience.findings["copies"].reason.startswith("it did not end within 1 s")
    assert audience.findings["links"].state is State.NOT_HERE
