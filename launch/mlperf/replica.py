"""The first rank of a replica: makes the videos that it is asked for, or that it takes from the shared list."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.progress import Progress
from engine.storage.files import save_tensors
from launch.mlperf.job import MlperfJob
from launch.mlperf.video import Made, MakeVideo, Order, StayAwake
from launch.ranks.lead import Lead
from parallel.shared_work import SharedWork


@dataclass(frozen=True)
class Sample:
    """One video that was made."""

    place: int
    """In its query."""
    prompt: int
    replica: int
    seconds: dict[str, float]
    """Of "encode", "denoise", "decode", and of the whole "video"."""
    steps_skipped: float
    block_fraction: float
    latents_sha256: str

    @property
    def response(self) -> bytes:
        """What LoadGen is given: frames of a whole run would fill its log, and their hash follows from this one."""
        return bytes.fromhex(self.latents_sha256)


@dataclass
class Replica:
    """Leads the ranks of one replica."""

    job: MlperfJob
    lead: Lead[Order, Made]
    work: SharedWork
    progress: Progress
    _title: str = ""
    _fewest: int = 0
    _made: int = 0
    _kept: set[Path] = field(default_factory=set)
    _last_order: float = field(default_factory=time.monotonic)

    def begin(self, title: str, fewest: int) -> None:
        """Show a test's videos under this title from now on.

        Args:
            fewest: videos that it takes at least.
        """
        self._title, self._fewest, self._made = title, fewest, 0

    def serve(self) -> None:
        """Do what the first rank of the job gives out until it has no more. On the other replicas."""
        while (message := self.work.await_message(self.stay_awake)) is not None:
            if message["warm_up"]:
                self.work.finish(self.warm_up(message["cache"]))
            else:
                for sample, latents in self.take_samples(message["prompts"], message["cache"], message["before"]):
                    self.work.finish(asdict(sample))
                    self.keep(sample, latents, message["cache"])

    def warm_up(self, cache: str) -> float:
        """Make two videos that count for nothing; returns the seconds of the second."""
        return [self._make(MakeVideo(0, cache))[1] for _ in range(2)][-1]

    def take_samples(self, prompts: Sequence[int], cache: str, before: int) -> Iterator[tuple[Sample, Made]]:
        """Make the videos that this replica takes from the list, as long as there are any.

        Args:
            prompts: numbers of all samples of the query.
            before: samples of earlier queries of the run.
        """
        while (place := self.work.take()) < len(prompts):
            prompt = prompts[place]
            self.progress.video(self._made, max(self._fewest, len(prompts), self._made + 1))
            self.progress.stage(self._title)
            self._made += 1
            output = self.job.video_path(cache, prompt) if self.job.accuracy else None
            made, seconds = self._make(MakeVideo(prompt, cache, output, before + place))
            yield self._sample(place, prompt, made, seconds), made

    def keep(self, sample: Sample, made: Made, cache: str) -> None:
        """Write the latents of a prompt that has none yet, for the comparison in the end. Not synced to the disk, which
        would take its time out of Offline's: nothing is lost with them but the run."""
        path = self.job.latents_path(cache, sample.prompt)
        if path not in self._kept and made.latents is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors({"latents": made.latents.float().cpu()}, path)
            self._kept.add(path)

    def order(self, order: Order) -> Made:
        """Have the ranks of this replica carry out an order."""
        made = self.lead.run(order)
        self._last_order = time.monotonic()
        return made

    def stay_awake(self) -> None:
        """Give the other ranks an order now and then, while there is nothing to do."""
        if time.monotonic() - self._last_order > self.job.config.runtime.load_timeout_seconds / 4:
            self.order(StayAwake())

    def _make(self, order: MakeVideo) -> tuple[Made, float]:
        started = time.perf_counter()
        made = self.order(order)
        return made, time.perf_counter() - started

    def _sample(self, place: int, prompt: int, made: Made, seconds: float) -> Sample:
        totals: dict[str, Any] = made.report["totals"]
        stages = {name: totals["seconds"][name] for name in ("encode", "denoise", "decode")}
        if made.decode_seconds is not None:
            stages["decode"] = made.decode_seconds
        return Sample(
            place,
            prompt,
            self.work.replica,
            stages | {"video": seconds},
            totals["skipped"] / max(1, totals["skipped"] + totals["computed"]),
            totals["block_fraction"],
            made.report["output"]["latents_sha256"],
        )
