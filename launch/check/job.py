"""From the arguments of `lockstep check` to a checked job."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.checks.outputs import check_outputs
from engine.errors import InvalidInput, MachineUnfit
from engine.request import Outputs, Task
from launch.check.table import Line, lines_for
from launch.check.video import OVERRIDES, request_of
from launch.jobs.checked import check_work
from launch.jobs.config import JobConfig, load_job_config
from launch.jobs.elsewhere import Settle
from parallel.degrees import Degrees
from parallel.place import Place

CPU_RANKS = 2
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "tiny-wan.yaml"


@dataclass(frozen=True)
class CheckOptions:
    """The arguments of the command, without the number of ranks.

    report: the JSON file; None for none. only: names of lines, or beginnings of them; all lines where empty.
    """

    report: Path | None = None
    only: Sequence[str] = ()


@dataclass(frozen=True)
class CheckJob:
    """A check that can begin."""

    config: JobConfig
    given: JobConfig
    only: Sequence[str]
    report: Path | None
    place: Place
    command: str

    @property
    def output(self) -> Path:
        """Where the report goes; with none a name that nothing has."""
        return self.report or Path("lockstep-check.json")

    @property
    def owned(self) -> Sequence[Path]:
        """All that it writes."""
        return [] if self.report is None else [self.report]

    @property
    def inputs(self) -> Sequence[Path]:
        """The files that its ranks read, beside the model."""
        return []

    @property
    def task(self) -> Task:
        """The small model's video."""
        return Task(request_of(self.given), Outputs())

    def settled(self, settle: Settle) -> CheckJob:
        """The same for the ranks of another machine, with the configuration that ``settle`` makes."""
        return replace(self, config=settle(self.config, [self.task]))

    def writing_to(self, output: Path) -> CheckJob:
        """The same with another file for the report."""
        return replace(self, report=output)


def prepare_check(options: CheckOptions, place: Place) -> CheckJob:
    """
    Args:
        place: of this process.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    if not CONFIG.is_file():
        raise MachineUnfit(
            f"There is no small model at {CONFIG}, which the check runs on: run it from a checkout of Lockstep."
        )
    given = load_job_config(CONFIG, OVERRIDES)
    if options.report is not None and place.acts_for_all:
        check_outputs(Outputs(report=options.report), Path(given.model.path))
    ranks = _count_ranks(place)
    given = given.model_copy(update={"parallel": given.parallel.with_degrees(Degrees(ring=ranks))})
    place = replace(place, ranks=ranks)
    work = check_work(given, [Task(request_of(given), Outputs())], place)
    chosen_lines(lines_for(ranks, work.config), options.only)
    return CheckJob(work.config, given, options.only, options.report, place, _command(options.report))


def _count_ranks(place: Place) -> int:
    """Those that were asked for; else one for each GPU, or two on the CPU.

    Raises:
        InvalidInput: they are fewer than one, or are to be counted on a cluster.
    """
    if place.ranks is None and place.elsewhere:
        raise InvalidInput("--launcher is ray, and --ranks is not given: say how many ranks of the cluster to check.")
    if place.ranks is None:
        import torch

        return torch.cuda.device_count() if torch.cuda.is_available() else CPU_RANKS
    if place.ranks < 1:
        raise InvalidInput(f"--ranks is {place.ranks}: use 1 or more.")
    return place.ranks


def chosen_lines(lines: Sequence[Line], only: Sequence[str]) -> list[Line]:
    """
    Args:
        only: names of lines, or beginnings of them; all lines where empty.

    Raises:
        InvalidInput: a name is none of the lines'.
    """
    for name in only:
        if not any(line.name.startswith(name) for line in lines):
            names = ", ".join(line.name for line in lines)
            raise InvalidInput(f"--only is {name!r}, which no line is called: use one of {names}.")
    return [line for line in lines if not only or any(line.name.startswith(name) for name in only)]


def _command(report: Path | None) -> str:
    """As it was typed; of the report's path, which may name a person, only the file's name."""
    words = [word.replace(str(report), report.name) if report else word for word in sys.argv[1:]]
    return shlex.join(["lockstep", *words])
