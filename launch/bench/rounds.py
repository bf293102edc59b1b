"""The videos of a bench on one rank: a warm-up, then rounds in which the variants take turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from engine.engine import Engine
from engine.progress import Progress
from launch.bench.job import BenchJob
from launch.bench.machine import ReferenceWork
from launch.bench.records import VariantName, VideoRecord
from launch.bench.turns.taking import OtherTurns
from launch.bench.video import Place, VideoMaker, compare_frames
from parallel.worklist import WorkList

NAMES = {"given": "as configured", "cache_off": "cache off", "against": "against"}
"""The variants, for people."""


class Rounds:
    """Makes the videos; collective: every rank calls the same methods. Replicas share the prompts of all rounds, and
    wait for one another only at the end."""

    def __init__(self, engine: Engine, job: BenchJob, progress: Progress, other: OtherTurns | None = None) -> None:
        """
        Args:
            other: another build, which takes turns with all variants under the name "against".
        """
        self._job = job
        self._progress = progress
        self._model = engine.model
        reference = ReferenceWork(engine.model.ranks.device)
        self._makers = {v.name: VideoMaker(engine, v, reference, progress) for v in job.variants}
        self._prompts = len(job.variants[0].requests)
        self._other = other
        self._turns: list[VariantName] = list(self._makers)
        if other is not None:
            self._turns.append("against")
        self._videos = job.rounds * self._prompts * len(self._turns)

    def warm_up(self) -> list[VideoRecord]:
        """The first prompt, by every variant as often as was asked for; by every replica."""
        records = []
        for number in range(self._job.warmup):
            for variant in self._job.variants:
                self._progress.stage(f"warm-up {number + 1} of {self._job.warmup}, {NAMES[variant.name]}")
                records.append(self._make(variant.name, -1 - number, 0)[0])
        if self._other is not None:
            self._progress.stage("warm-up of the other build")
            self._other.let("warm_up")
        return records

    def run(self) -> list[VideoRecord]:
        """The counted videos that this rank had a part in."""
        job = self._job
        records: list[VideoRecord] = []
        work = WorkList(job.rounds * self._prompts, self._model.ranks, "bench")
        for item in work:
            number, prompt = divmod(item, self._prompts)
            records += self.take_turns(number, prompt)
        if self._model.ranks.degrees.data > 1:
            self._progress.stage("wait")
        work.await_all()
        return records

    def trace(self) -> None:
        """One more video of the configuration as given, by every replica, with a trace of each rank; not counted, for
        a profiler takes time."""
        self._progress.stage("trace")
        job = self._job
        output = job.folder.video(f"rank-{self._model.ranks.first_in_replica}", keep=False)
        self._makers["given"].trace(0, output, job.folder.path)
        self._remove(output)

    def take_turns(self, number: int, prompt: int) -> Iterator[VideoRecord]:
        """One prompt by all variants, the order of which changes from one to the next, so that drift cancels. In the
        first round videos with and without the cache are compared: later rounds make the same ones."""
        job = self._job
        frames: dict[str, Tensor | None] = {}
        made: dict[str, VideoRecord] = {}
        compares = number == 0 and "cache_off" in self._makers
        for place, name in enumerate(in_turn(self._turns, number + prompt)):
            done = (number * self._prompts + prompt) * len(self._turns) + place
            self._progress.video(done, self._videos)
            self._progress.stage(f"round {number + 1} of {job.rounds}, {NAMES[name]}, prompt {prompt}")
            if self._other is not None and name == "against":
                self._other.let("video", round=number, prompt=prompt)
                continue
            made[name], latents = self._make(name, number, prompt)
            if compares and name != "against":
                frames[name] = self._makers[name].frames(latents)
        if compares:
            made["given"] = compare_frames(made["given"], frames["given"], frames["cache_off"])
        yield from made.values()

    def _make(self, variant: VariantName, number: int, prompt: int) -> tuple[VideoRecord, Tensor]:
        keep = self._job.keep_videos and number >= 0
        first = self._model.ranks.first_in_replica
        name = f"{variant}-round-{number}-prompt-{prompt}" if keep else f"rank-{first}"
        output = self._job.folder.video(name, keep)
        made = self._makers[variant].make(Place(number, prompt), output)
        if not keep:
            self._remove(output)
        return made

    def _remove(self, output: Path) -> None:
        """And its folder if that is empty, on a machine that does not see the first one's."""
        if self._model.is_first:
            with suppress(OSError):
                output.unlink()
                output.parent.rmdir()


def in_turn(variants: Sequence[VariantName], number: int) -> list[VariantName]:
    """The variants in the order of the turn of that number: each comes first as often as the others."""
    start = number % len(variants)
    return [*variants[start:], *variants[:start]]
