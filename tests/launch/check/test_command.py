"""`lockstep check` as a person runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.check_faults import FAULTS
from tests.support.check_site import CHECK_INJECTED
from tests.support.networks import two_stacks
from tests.support.shell import ROOT, Refused, Shell, finish, untimed

pytestmark = pytest.mark.timeout(300)


def check(shell: Shell, *arguments: str, fault: str = "", expected: int = 0) -> tuple[dict[str, Any], str, str]:
    """The report of a check, its table and its progress."""
    path = os.pathsep.join([str(ROOT), str(CHECK_INJECTED)])
    given = ["check", "--report=r.json", *arguments]
    process = shell.lockstep(*given, PYTHONPATH=path, LOCKSTEP_CHECK_FAULT=fault)
    out, err = finish(process, expected)
    return json.loads((shell.folder / "r.json").read_text()), out, err


def states(report: dict[str, Any]) -> dict[str, str]:
    return {line["name"]: line["state"] for line in report["lines"]}


def test_a_line_that_crashes_ends_neither_the_check_nor_the_other_ranks(shell: Shell) -> None:
    shown = ["--only=copies", "--only=links", "--only=host", "--ranks=2"]
    report, out, err = check(shell, *shown, fault="crash", expected=1)
    assert states(report) == {"copies": "falls short", "links": "holds", "host synchronisations": "not here"}
    reasons = {line["name"]: line["reason"] for line in report["lines"]}
    assert (
        "rank 0" in reasons["copies"]
        and "SIGSEGV" in reasons["copies"]
        and "no GPU" in reasons["host synchronisations"]
    )
    assert "GB/s" in next(line["figure"] for line in report["lines"] if line["name"] == "links")
    assert "1 holds, 1 falls short, 1 is not here; 2 ranks on 1 machine" in out and "copies" in err
    assert report["schema"] == 1 and report["versions"]["torch"] and report["machine"]["processor"]
    assert report["command"].startswith("lockstep check --report=r.json") and report["date"]
    text = json.dumps(report)
    assert str(shell.folder) not in text and str(ROOT) not in text and os.uname().nodename not in text
    assert [path.name for path in shell.folder.iterdir()] == ["r.json"], "it writes nothing else"


def test_refused(shell: Shell, refused: Refused) -> None:
    (shell.folder / "r").mkdir()
    for given, words in {
        ("--only=speed",): ["'speed'", "attention kernels"],
        ("--report=r.txt",): ["r.txt", ".json"],
        ("--report=/proc/r.json",): ["/proc", "not writable"],
        ("--ranks=0",): ["--ranks is 0"],
        ("--ranks=many",): ["'many'"],
        ("--ray-address=a:1",): ["add --launcher ray"],
        ("--launcher=ray",): ["--ranks is not given"],
    }.items():
        line = refused(["check", *given])
        assert all(word in line for word in words), line


def test_ctrl_c_ends_all_processes(shell: Shell, tmp_path: Path) -> None:
    process = endless(shell, TMPDIR=str(tmp_path))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130 and untimed(err) == ["lockstep: interrupted"], err
    shell.await_nobody(seconds=5)
    assert not list(tmp_path.glob("ls-*"))


def endless(shell: Shell, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A check in the middle of a line that never ends."""
    path = os.pathsep.join([str(ROOT), str(CHECK_INJECTED)])
    given = ["--only=copies", "--ranks=1", "--report=r.json", *arguments]
    process = shell.lockstep("check", *given, PYTHONPATH=path, LOCKSTEP_CHECK_FAULT="endless", **environment)
    shell.await_line(process, "copies")
    return process


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_a_check_that_ends_takes_along_what_its_lines_have_started(signum: int, shell: Shell) -> None:
    process = shell.lockstep("check", "--only=stopped", "--ranks=2")
    deadline = time.monotonic() + 150
    while len(shell.family()) < 6:  # the command, two workers, and what the line has started
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signum)
    shell.await_nobody(seconds=10)


@pytest.mark.slow
def test_a_killed_worker_is_said_in_its_line(shell: Shell) -> None:
    process = endless(shell)
    (worker,) = shell.ranks().values()
    os.kill(worker, signal.SIGKILL)
    out, _ = finish(process, 1)
    (line,) = json.loads((shell.folder / "r.json").read_text())["lines"]
    assert line["state"] == "falls short" and "rank 0 was ended by SIGKILL" in line["reason"] and "1 falls short" in out
    shell.await_nobody(seconds=5)


@pytest.mark.slow
def test_a_report_that_cannot_be_written_costs_nobody_the_lines(shell: Shell) -> None:
    process = shell.lockstep("check", "--only=links", "--ranks=1", "--report=results/r.json")
    shell.await_line(process, "links")
    (shell.folder / "results").write_text("a file")
    out, err = finish(process, 1)
    assert "1 is not here" in out
    (line,) = untimed(err)
    assert line.startswith("lockstep: --report is ") and "which cannot be written" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_the_command_finds_a_fault(name: str, shell: Shell) -> None:
    fault = FAULTS[name]
    report, _, _ = check(shell, f"--only={fault.line}", f"--ranks={fault.ranks}", fault=name, expected=1)
    (line,) = (line for line in report["lines"] if line["name"] == fault.line)
    assert line["state"] == "falls short" and any(word in line["reason"] for word in fault.words), line


@pytest.mark.slow
def test_the_command_finds_that_the_wrong_rank_is_blamed(shell: Shell) -> None:
    report, _, _ = check(shell, "--only=stopped", "--ranks=2", fault="wrong rank", expected=1)
    assert "rank 1 was stopped, and the error does not name it" in report["lines"][0]["reason"], report


@pytest.mark.slow
def test_all_lines_hold_here(shell: Shell) -> None:
    report, _, _ = check(shell)
    assert set(states(report).values()) <= {"holds", "not here"}, report
    assert report["ranks"] == 2 and report["seconds"] < 240  # 120 on a quiet machine
    assert [line["name"] for line in report["lines"] if line["state"] == "not here"] == ["host synchronisations"]


@pytest.mark.slow
def test_under_torchrun_each_rank_has_its_own_worker(shell: Shell) -> None:
    shown = ["--only=copies", "--only=links", "--only=layout cfg", "--report=r.json"]
    path = os.pathsep.join([str(ROOT), str(CHECK_INJECTED)])
    _, err = finish(shell.torchrun_of(2, "launch", "check", *shown, PYTHONPATH=path, LOCKSTEP_CHECK_FAULT="crash"), 1)
    report = json.loads((shell.folder / "r.json").read_text())
    assert states(report) == {"copies": "falls short", "links": "holds", "layout cfg 2": "holds"}, err
    shell.await_nobody(seconds=5)


@pytest.mark.slow
def test_under_torchrun_on_two_machines_links_between_them_are_measured(shell: Shell) -> None:
    shown = ["--only=links", "--only=layout", "--only=two", "--only=stopped", "--report=r.json"]
    with two_stacks() as stacks:
        meeting = ["--nnodes=2", "--nproc-per-node=1", f"--master-addr={stacks[0].address}", "--master-port=29400"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", *meeting]
        agents = [
            shell.start([*stack.prefix, *torchrun, f"--node-rank={i}", "-m", "launch", "check", *shown])
            for i, stack in enumerate(stacks)
        ]
        out, err = finish(agents[0])
        assert finish(agents[1])[0] == ""
    report = json.loads((shell.folder / "r.json").read_text())
    found = states(report)
    assert found.pop("stopped rank") == "not here" and set(found.values()) == {"holds"} and len(found) == 7, err
    assert report["nodes"] == 2 and "2 ranks on 2 machines" in out
    assert "between machines" in next(line["reason"] for line in report["lines"] if line["name"] == "links")
    assert stacks[0].address not in json.dumps(report)
    shell.await_nobody(seconds=5)
