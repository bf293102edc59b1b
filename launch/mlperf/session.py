"""The first rank's part of the test: LoadGen asks it for videos, which it has all replicas make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from engine.progress import Progress
from engine.storage.files import StagedFiles
from launch.mlperf.job import CACHE_OFF, MlperfJob
from launch.mlperf.loadgen import Served, drive
from launch.mlperf.replica import Replica, Sample
from launch.mlperf.settings import USER_CONF, Settings
from launch.mlperf.video import Decode, Made
from launch.sweep.metrics import psnr


@dataclass
class TestRun:
    """One test of LoadGen, with the cache off or on."""

    cache: str
    warm_up_seconds: float
    """Of a video, the slowest replica's."""
    samples: list[Sample] = field(default_factory=list)
    served: Sequence[Served] = ()


@dataclass
class Session:
    """Runs the tests on the first rank of the job."""

    job: MlperfJob
    replica: Replica
    replicas: int
    progress: Progress

    def run(self, cache: str) -> TestRun:
        """Warm all replicas up, then have LoadGen run its test.

        Args:
            cache: the name of the run.
        """
        job = self.job
        title = f"MLPerf {job.scenario.loadgen_name}, {'cache off' if cache == CACHE_OFF else 'cache on'}"
        self.progress.video(0, 1)
        self.progress.stage(f"{title}: warm-up")
        run = TestRun(cache, self._warm_up(cache))
        folder = job.log_folder(cache)
        settings = Settings(
            job.queries,
            job.config.mlperf.min_duration_seconds,
            job.performance_samples,
            run.warm_up_seconds,
            self.replicas,
        )
        with StagedFiles() as files:
            files.stage(folder / USER_CONF).write_text(settings.user_conf(job.scenario), encoding="utf-8")
        self.replica.begin(title, job.queries)

        def answer(prompts: Sequence[int]) -> Iterator[tuple[int, bytes]]:
            for sample, made in self._make(prompts, cache, len(run.samples)):
                run.samples.append(sample)
                yield sample.place, sample.response
                if made is not None:
                    self.replica.keep(sample, made, cache)

        run.served = drive(settings, job.scenario, job.accuracy, folder, len(job.requests), answer)
        return run

    def psnr_by_prompt(self, runs: Sequence[TestRun]) -> dict[int, float | None]:
        """Decibels of the second run's frames against the first's, by the number of each prompt that both have made;
        None where another replica's latents are not in the folder, which is then not one that all machines see."""
        if len(runs) < 2:
            return {}
        self.progress.video(0, 1)  # what follows belongs to no video
        self.progress.stage("comparing the videos with the cache off and on")
        made = [{sample.prompt for sample in run.samples} for run in runs]
        return {prompt: self._psnr(prompt, [run.cache for run in runs]) for prompt in sorted(made[0] & made[1])}

    def _psnr(self, prompt: int, caches: Sequence[str]) -> float | None:
        from safetensors.torch import load_file

        paths = [self.job.latents_path(cache, prompt) for cache in caches]
        if not all(path.is_file() for path in paths):
            return None
        frames = [self.replica.order(Decode(load_file(path)["latents"])).frames for path in paths]
        assert frames[0] is not None and frames[1] is not None, "the first rank has the frames"
        return psnr(frames[1], frames[0])

    def _warm_up(self, cache: str) -> float:
        work = self.replica.work
        work.announce({"warm_up": True, "cache": cache})
        own = self.replica.warm_up(cache)
        return max([own, *work.await_results(self.replicas - 1, self.replica.stay_awake)])

    def _make(self, prompts: Sequence[int], cache: str, before: int) -> Iterator[tuple[Sample, Made | None]]:
        """All samples of a query, in the order in which they are ready; those of other replicas without what was made.

        Another replica's sample is seen when this one's next video is made: with Offline the last one counts.
        """
        work = self.replica.work
        work.announce({"warm_up": False, "cache": cache, "prompts": list(prompts), "before": before})
        missing = len(prompts)
        for sample, made in self.replica.take_samples(prompts, cache, before):
            missing -= 1
            yield sample, made
            for result in work.new_results():
                missing -= 1
                yield Sample(**result), None
        for result in work.await_results(missing, self.replica.stay_awake):
            yield Sample(**result), None
