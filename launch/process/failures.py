"""The error line of a failed run: which rank, in which phase, why. Each rank records its own failure, of which the
launcher prints the first."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from engine.errors import InvalidInput, Paused, PeerLost, sentence, speaks_for_itself
from launch.process.hangs import RankState, find_hung, waits, where
from launch.process.machine_faults import is_machines_fault
from launch.process.packages import unfit_packages
from launch.process.pausing import PAUSED
from launch.process.signals import PARENT_PID, say

_KEY = "lockstep"  # our part of elastic's error file
_LONGEST_MESSAGE = 400
_STATE = "state.json"
_SIGNS_OF_A_WAIT = re.compile(r"lost contact .*(timed out|for too long)", re.IGNORECASE)
# what torch's watchdog writes before it aborts a rank that has waited in a collective for too long
_SIGNS_OF_THE_WATCHDOG = re.compile(r"watchdog|collective operation timeout|ProcessGroupNCCL", re.IGNORECASE)
# messages of gloo, NCCL and the store on the ranks that lost another one; they raise no classes of their own
_SIGNS_OF_A_LOST_PEER = re.compile(
    r"closed by peer|reset by peer|broken pipe|gloo/transport|remote process|ncclRemoteError|communicator was aborted|"
    r"timed out|timeout|recvValue failed|failed to recv|connection refused|application timeout",
    re.IGNORECASE,
)
_SOURCE_LOCATION = re.compile(r"\[\S*\.(cc|cpp|h|hpp):\d+\]\s*")
_ADDRESS = re.compile(r"\s*\[\S*\]:\d+|\s*\[[0-9a-f.:]+\](:\d+)?")


@dataclass(frozen=True)
class Failure:
    """Why one rank stopped."""

    rank: int
    phase: str
    message: str
    time_ns: int
    consequence: bool = False  # another rank failed first
    invalid_input: bool = False
    paused: bool = False  # no failure at all: it was asked to
    traceback: str = ""
    machines: bool = False  # the machine's fault, so that another one may do the same

    @property
    def exit_code(self) -> int:
        return PAUSED if self.paused else 2 if self.invalid_input else 1

    def __str__(self) -> str:
        if self.invalid_input or self.paused:
            return self.message
        return f"rank {self.rank} failed in {self.phase}: {self.message}"


class EndedProcess(Protocol):
    """What elastic reports of a rank that failed or was killed (its ProcessFailure)."""

    local_rank: int
    exitcode: int


def describe(error: BaseException, rank: int, phase: str) -> Failure:
    """Put an exception of this rank into words."""
    now = time.time_ns()
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, InvalidInput):
        return Failure(
            rank, phase, sentence(error), now, invalid_input=True, traceback=trace, machines=is_machines_fault(error)
        )
    if isinstance(error, Paused):
        return Failure(rank, phase, sentence(error), now, paused=True, traceback=trace)
    if isinstance(error, PeerLost):
        return Failure(rank, phase, sentence(error), now, consequence=True, traceback=trace)
    # torch's DistError and gloo's bare RuntimeError; OSError for the sockets of the store
    if (
        isinstance(error, RuntimeError | OSError)
        and not speaks_for_itself(error)
        and _SIGNS_OF_A_LOST_PEER.search(str(error))
    ):
        reason = _ADDRESS.sub("", _SOURCE_LOCATION.sub("", " ".join(str(error).split()))).split(". ")[0]
        message = f"lost contact with another rank ({_shorten(reason, 160)})"
        return Failure(rank, phase, message, now, consequence=True, traceback=trace)
    message = _shorten(sentence(error), _LONGEST_MESSAGE)
    if isinstance(error, ImportError) and (unfit := unfit_packages()):
        message += f": {unfit}"
    return Failure(rank, phase, message, now, traceback=trace, machines=is_machines_fault(error))


def record(failure: Failure) -> None:
    """Write the failure into the error file that torch's elastic launcher names; does nothing where it names none."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file:
        return
    extra = {"py_callstack": str(failure), "timestamp": str(failure.time_ns // 10**9)}
    content = {"message": {"message": str(failure), "extraInfo": extra}, _KEY: asdict(failure)}
    partial = Path(f"{file}.partial")  # the launcher may look at any moment
    try:
        partial.write_text(json.dumps(content))
        partial.replace(file)
    except OSError:
        pass  # a full disk must not hide the error itself


def record_state(state: RankState) -> None:
    """Keep what a rank shows that has not got on for long, for a launcher that finds no better cause."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        partial = Path(file).with_name(f"{_STATE}.partial")
        try:
            partial.write_text(json.dumps(asdict(state)))
            partial.replace(partial.with_name(_STATE))
        except OSError:
            pass  # a full disk for temporary files, which the video does not need


def report_here(failure: Failure) -> None:
    """Print the error line from this rank, unless our launcher does or another rank has done so."""
    if PARENT_PID not in os.environ and _first_to_report():
        print_failure(failure)


def print_failure(failure: Failure) -> None:
    """One line on stderr; with LOCKSTEP_TRACEBACK=1 the traceback above it."""
    if os.environ.get("LOCKSTEP_TRACEBACK") and failure.traceback:
        for line in failure.traceback.rstrip().split("\n"):
            say(line)
    say(f"lockstep: {failure}")


def _first_to_report() -> bool:
    # torchrun prints no line of ours; the rank that fails first also gets here first
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file:
        return True
    try:
        Path(file).parent.with_name("reported").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        pass
    return True


def root_cause(ended: Mapping[int, EndedProcess], run_folder: Path) -> Failure:
    """The first failure among the ranks that ended badly.

    Elastic compares times in whole seconds, in which a rank that lost contact may come before the one that failed; and
    it counts the ranks that the launcher ended itself.
    """
    failures = {rank: _read(rank, process, run_folder) for rank, process in ended.items()}
    first = min(failures, key=lambda rank: (_precedence(ended[rank], failures[rank]), failures[rank].time_ns))
    if failures[first].consequence:
        return _cause_of_waiting(failures, run_folder) or failures[first]
    return failures[first]


def _cause_of_waiting(failures: Mapping[int, Failure], run_folder: Path) -> Failure | None:
    """Where ranks ended only because they had waited for another: the one that they waited for, if it can be told."""
    states = {}
    for file in run_folder.glob(f"*/attempt_*/*/{_STATE}"):
        with suppress(OSError, ValueError, TypeError):
            states[int(file.parent.name)] = RankState(**json.loads(file.read_text()))
    if len(states) > 1 and not waits(states[hung := find_hung(states)].stack):
        message = f"others have waited for it, and it has not got on: it was in {where(states[hung].stack)}"
        return Failure(hung, states[hung].phase, message, time.time_ns())
    others = [failure for failure in failures.values() if not _SIGNS_OF_A_WAIT.search(failure.message)]
    if len(failures) > 1 and len(others) == 1:
        return replace(others[0], message="it has not got on, and the others have waited for it in vain")
    return None


def _precedence(process: EndedProcess, failure: Failure) -> int:
    if failure.consequence:
        return 2
    if process.exitcode == -signal.SIGTERM:
        return 3  # by the launcher, or by someone who ended them all
    return 1 if process.exitcode < 0 else 0


def _read(rank: int, process: EndedProcess, run_folder: Path) -> Failure:
    folder = next(run_folder.glob(f"*/attempt_*/{process.local_rank}"), run_folder)
    try:
        content: dict[str, Any] = json.loads((folder / "error.json").read_text())
        return Failure(**content[_KEY])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    last_words = _last_line(folder / "stderr.log")
    phase = _last_line(folder / "phase") or "start"
    if process.exitcode == -signal.SIGABRT and _SIGNS_OF_THE_WATCHDOG.search(_text(folder / "stderr.log")):
        message = "lost contact with another rank (it has waited in a collective operation for too long)"
        return Failure(rank, phase, message, time.time_ns(), consequence=True)
    if process.exitcode < 0:
        cause = f"the process was ended by {_signal_name(-process.exitcode)}"
    else:
        cause = f"the process ended with exit code {process.exitcode}"
    return Failure(rank, phase, cause + (f" ({last_words})" if last_words else ""), time.time_ns())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _last_line(file: Path) -> str:
    lines = _text(file).split("\n")
    return _shorten(next((line.strip() for line in reversed(lines) if line.strip()), ""), 160)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
