"""Each line holds here, and each fault that is put in on purpose is found by its line."""

from pathlib import Path
from typing import Any

import pytest

from launch.check.finding import Finding, State
from parallel.degrees import Degrees
from tests.support.check_faults import FAULTS, Fault
from tests.support.check_site import found_here, found_on_ranks
from tests.support.gang import Gang

OTHERS = {"versions", "VAE decode", "rank 0 of 8", "small model in bfloat16"}
ALONE = sorted({fault.line for fault in FAULTS.values() if fault.ranks == 1} | OTHERS)
TOGETHER = sorted({fault.line for fault in FAULTS.values() if fault.ranks == 2})
# others are found in the same way, or it takes processes of its own
SLOW = {
    "no checkpoint found",
    "resumed without its cache",
    "TF32 in the model",
    "swapped ranks of a ring",
    "a transformer without a turn",
}
SLOW_LINES = {"killed and resumed", "small model in bfloat16", "VAE decode"}  # they hold in a whole check, too


def named(faults: dict[str, Fault], ranks: int) -> list[Any]:
    """Names of the faults that take so many ranks."""
    return [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name, fault in faults.items()
        if fault.ranks == ranks
    ]


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=pytest.mark.slow if line in SLOW_LINES else ()) for line in ALONE]
)
def test_a_line_holds(line: str, tmp_path: Path) -> None:
    finding = found_here(line, tmp_path)
    assert finding.state is State.HOLDS and finding.figure and finding.reason, finding


@pytest.mark.parametrize("name", named(FAULTS, 1))
def test_a_fault_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[name].install(monkeypatch)
    assert_found(FAULTS[name], found_here(FAULTS[name].line, tmp_path))


@pytest.mark.parametrize("line", TOGETHER)
def test_a_line_of_two_ranks_holds(line: str, gang: Gang, tmp_path: Path) -> None:
    found = gang.run(found_on_ranks, Degrees(ulysses=2), line, "", str(tmp_path), line)
    assert [each["state"] for each in found] == ["holds", "holds"], found


@pytest.mark.parametrize("name", named(FAULTS, 2))
def test_a_fault_of_two_ranks_is_found(name: str, gang: Gang, tmp_path: Path) -> None:
    line = FAULTS[name].line
    found = [
        Finding.model_validate(each)
        for each in gang.run(found_on_ranks, Degrees(ulysses=2), line, name, str(tmp_path), name)
    ]
    assert_found(FAULTS[name], next((each for each in found if each.state is State.FALLS_SHORT), found[0]))


def assert_found(fault: Fault, finding: Finding) -> None:
    assert finding.state is State.FALLS_SHORT, finding
    assert any(word in finding.reason for word in fault.words), finding
