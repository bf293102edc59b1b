"""One agent of a check: from the job to the report."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from engine.execution.versions import describe_all_versions
from engine.progress import Progress
from launch.check.agent import run_lines
from launch.check.board import Board, OwnBoard
from launch.check.document import CheckDocument, CheckedLine, without_names, write_document
from launch.check.finding import Finding
from launch.check.job import CheckJob, chosen_lines
from launch.check.machine import describe_machine
from launch.check.starting import Assignment
from launch.check.table import Line, lines_for
from launch.process.scratch import scratch_folder

_MEET_SECONDS = 600.0


def run_check_here(job: CheckJob, progress: Progress, rank: int) -> CheckDocument | None:
    """As :func:`run_check`, for an agent that has all ranks on this machine to itself."""
    ranks = job.config.parallel.degrees.world_size
    return _run(job, progress, range(ranks), OwnBoard(), "127.0.0.1", ranks)


def run_check(job: CheckJob, progress: Progress, rank: int) -> CheckDocument | None:
    """Run all lines, and write the report if there is to be one; collective over the agents of all ranks.

    Args:
        rank: of this agent, a process that torchrun or Ray has started.

    Returns:
        On the first rank, the report; None elsewhere.
    """
    from parallel.meeting import Meeting

    ranks = job.config.parallel.degrees.world_size
    if ranks == 1:
        return run_check_here(job, progress, rank)
    meeting = Meeting(rank, ranks, _MEET_SECONDS)
    # another process may open no port at the launcher's address, but one at its own
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    return _run(job, progress, [rank], meeting.store, os.environ["MASTER_ADDR"], local)


def _run(
    job: CheckJob, progress: Progress, own: Sequence[int], board: Board, address: str, local_ranks: int
) -> CheckDocument | None:
    import torch

    ranks = job.config.parallel.degrees.world_size
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    lines = chosen_lines(lines_for(ranks, job.config), job.only)
    taken = _Taken(progress, [str(job.config.model.path)])
    started = time.monotonic()
    with scratch_folder() as folder:
        assignment = Assignment(ranks, own, local_ranks, kind, job.config.model_dump_json(), address, folder)
        run_lines(assignment, lines, board, taken)
    if 0 not in own:
        return None
    document = CheckDocument(
        lines=taken.lines,
        machine=describe_machine() | {"device": kind},
        versions=describe_all_versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=job.command,
        ranks=ranks,
        nodes=-(-ranks // local_ranks),
        seconds=round(time.monotonic() - started, 1),
    )
    progress.done()
    return document if job.report is None else _written(document, job.report)


def _written(document: CheckDocument, report: Path) -> CheckDocument:
    """The same, which has a complaint if the file cannot be written: the lines are shown all the same."""
    try:
        write_document(document, report)
    except OSError as error:
        said = f"--report is {str(report)!r}, which cannot be written ({error.strerror or error}): choose another."
        return document.model_copy(update={"complaint": said})
    return document


class _Taken:
    """What the first rank's agent is told."""

    def __init__(self, progress: Progress, hidden: Sequence[str]) -> None:
        self.lines: list[CheckedLine] = []
        self._progress = progress
        self._hidden = hidden
        self._since = time.monotonic()

    def began(self, line: Line) -> None:
        self._since = time.monotonic()
        self._progress.stage(line.name)

    def alive(self) -> None:
        self._progress.alive()

    def told(self, line: Line, finding: Finding) -> None:
        seconds = round(time.monotonic() - self._since, 1)
        figure, reason = (without_names(said, self._hidden) for said in (finding.figure, finding.reason))
        self.lines.append(
            CheckedLine(name=line.name, state=finding.state, figure=figure, reason=reason, seconds=seconds)
        )
