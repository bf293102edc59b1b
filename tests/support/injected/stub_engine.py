"""An engine without a model: the stages, collectives, files and control words of ``engine.engine``, and no weights.

What starts, watches and ends ranks cannot tell the two apart, but a rank is up after one second of imports instead of
five. A step takes `STEP_SECONDS`, the video file holds a line of text, and checkpoints are empty files: tests of what
a resumed run makes take the real engine.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from engine.checkpoints.names import step_folder
from engine.config import Config
from engine.errors import stop_if_asked
from engine.progress import Progress
from engine.request import GenerationRequest, Task
from engine.storage.files import StagedFiles
from parallel.agreement import Agreement
from parallel.control import Control
from parallel.degrees import Degrees
from parallel.interface import choose_interface
from parallel.meeting import Meeting
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks, set_timeouts
from parallel.worklist import WorkList

STEP_SECONDS = 0.01
WARMUP_STEPS = 2


class Engine:
    """Has the methods of the real one that a run from the command line calls."""

    def __init__(self, config: Config, ranks: Ranks, progress: Progress, lists: Iterator[int]) -> None:
        self._config = config
        self._ranks = ranks
        self._progress = progress
        self._lists = lists

    @classmethod
    def load(cls, config: Config, progress: Progress | None = None) -> "Engine":
        progress = progress or Progress()
        progress.stage("join")
        ranks = _join(config.parallel.degrees, config.runtime.load_timeout_seconds)
        progress.stage("load")
        return cls(config, ranks, progress, itertools.count(1))

    def configured(self, config: Config, progress: Progress | None = None) -> "Engine":
        return Engine(config, self._ranks, progress or self._progress, self._lists)

    def generate_all(
        self, tasks: Sequence[Task], control: Callable[[], Control] = lambda: Control.RUN
    ) -> list[dict[str, Any]] | None:
        work = WorkList(len(tasks), self._ranks, f"list {next(self._lists)}")
        for index in work:
            self._progress.video(index, len(tasks))
            outputs = tasks[index].outputs
            self._generate(tasks[index].request, outputs.video, outputs.checkpoint, control)
            if self._ranks.replica_rank == 0:
                work.finish(index, _report(tasks[index].request, outputs.video))
        self._progress.done()
        work.await_all()
        return work.results() if self._ranks.rank == 0 else None

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def _generate(
        self, request: GenerationRequest, output: Path | None, checkpoint: Path | None, control: Callable[[], Control]
    ) -> None:
        self._progress.stage("encode")
        self._progress.stage("denoise")
        self._denoise(request.sampling.steps, checkpoint, control)
        set_timeouts(self._config.runtime.load_timeout_seconds)
        self._progress.stage("decode")
        with StagedFiles() as files:
            if output and self._ranks.replica_rank == 0:
                self._progress.doing("write")
                files.stage(output).write_text(f"{request.prompts}, {request.seed}\n")
                self._progress.doing("decode")
            self._progress.stage("write")

    def _denoise(self, steps: int, checkpoint: Path | None, control: Callable[[], Control]) -> None:
        agreement, size = Agreement(self._ranks, CollectiveMeter(), control), self._ranks.replica_size
        number, finite = torch.zeros(1, dtype=torch.float64), torch.tensor(True)
        for index in range(steps):
            agreed = agreement.agree(step=index, expected_tokens=size, num_tokens=1, sums=number, finite=finite)
            stop_if_asked(agreed.control, f"denoise step {index}")
            if index == 0:
                set_timeouts(self._config.runtime.step_timeout_seconds)
            time.sleep(STEP_SECONDS)
            if checkpoint and self._config.checkpoint.every and (index + 1) % self._config.checkpoint.every == 0:
                folder = step_folder(checkpoint, index + 1)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"rank-{self._ranks.rank}").touch()
            self._progress.step(index, steps, _action(index))


def _join(degrees: Degrees, timeout_seconds: float) -> Ranks:
    """As ``parallel.ranks.join``, on the CPU and with one group, for xDiT takes a second to import as well."""
    if degrees.world_size == 1:
        return Ranks(degrees)
    choose_interface()
    rank = int(os.environ["RANK"])
    timeout = timedelta(seconds=timeout_seconds)
    meeting = Meeting(rank, degrees.world_size, timeout_seconds)
    dist.init_process_group("gloo", store=meeting.store, timeout=timeout, rank=rank, world_size=degrees.world_size)
    assert degrees.data == 1, "a replica would need a group of its own"
    return Ranks(degrees, rank, replica_group=dist.group.WORLD)


def _action(index: int) -> str:
    return "warmup" if index < WARMUP_STEPS else "compute"


def _report(request: GenerationRequest, output: Path | None) -> dict[str, Any]:
    """What the summary of a run is printed from."""
    steps = [{"branch": "cond", "action": _action(index)} for index in range(request.sampling.steps)]
    return {
        "request": {"sampling": request.sampling.model_dump()},
        "steps": steps,
        "totals": {"block_fraction": 1.0, "seconds": {"load": 0.0, "total": request.sampling.steps * STEP_SECONDS}},
        "output": {"path": str(output) if output else None},
    }
