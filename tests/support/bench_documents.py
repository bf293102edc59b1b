"""Results of a bench as a machine with noise would have measured them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from launch.bench.document import (
    BenchDocument,
    CacheGain,
    Flops,
    Measured,
    RankRow,
    Sample,
    ScaleRow,
    Skew,
    Startup,
    StepSeconds,
)
from launch.bench.spread import spread

STAGES = ("encode", "denoise", "decode", "write")


@dataclass
class Machine:
    """Times as a shared machine gives them; deviations are of logarithms."""

    random: np.random.Generator
    between_runs: float = 0.0
    between_rounds: float = 0.0
    noise: float = 0.0
    tracked: float = 1.0
    """The share of the machine's drift that the reference sees."""

    def measured(
        self,
        steps: int = 8,
        ranks: int = 1,
        rounds: int = 5,
        prompts: int = 1,
        work: float = 1.0,
        sleep: float = 0.0,
        skips: bool = True,
        drift: np.ndarray | None = None,
        reference: bool = True,
        device: str = "cpu, 1 thread",
    ) -> Measured:
        """One variant.

        Args:
            work: what a step costs, over what it costs in other builds.
            sleep: over the seconds of each step.
            drift: [rounds] of the machine, of a run that another variant shares.
        """
        if drift is None:
            drift = self.drift(rounds)
        actions = ["warmup" if n < 2 else "skip" if skips and n % 3 == 0 else "compute" for n in range(steps)]
        costs = np.array([0.01 if action == "skip" else 0.05 for action in actions]) * work
        samples = []
        for number in range(rounds):
            for prompt in range(prompts):
                slow = float(np.exp(drift[number])) * (1 + 0.1 * prompt)
                busy = costs * slow * np.exp(np.abs(self.random.normal(0, self.noise, steps)))
                taken = busy * (1 + sleep)
                seconds = {"encode": 0.02 * slow, "denoise": float(taken.sum()), "decode": 0.1 * slow}
                seconds["write"] = 0.01 * slow
                seconds["total"] = sum(seconds.values())
                idle = {stage: 0.0 for stage in STAGES} | {"denoise": float(busy.sum()) * sleep}
                idle["total"] = idle["denoise"]
                seen = self.tracked * drift[number] + self.random.normal(0, self.noise)
                samples.append(
                    Sample(
                        round=number,
                        replica=0,
                        prompt=prompt,
                        seed=prompt,
                        seconds=seconds,
                        step_seconds=taken.tolist(),
                        step_actions=actions,
                        block_fraction=0.7,
                        latents_sha256="0" * 64,
                        queued_seconds=dict.fromkeys((*STAGES, "total"), 0.0),
                        idle_seconds=idle,
                        step_idle_seconds=(busy * sleep).tolist(),
                        reference_seconds=0.005 * float(np.exp(seen)) if reference else None,
                    )
                )
        return summed(samples, ranks, device)

    def drift(self, rounds: int) -> np.ndarray:
        return self.random.normal(0, self.between_runs) + self.random.normal(0, self.between_rounds, rounds)


def summed(samples: list[Sample], ranks: int, device: str = "cpu, 1 thread") -> Measured:
    """The figures of samples."""
    steps = [pair for sample in samples for pair in zip(sample.step_seconds, sample.step_actions, strict=True)]
    kinds = {skip: [value for value, action in steps if (action == "skip") is skip] for skip in (False, True)}
    totals = [sample.seconds["total"] for sample in samples]
    skipped = len(kinds[True]) / len(samples)
    stages = {stage: spread([sample.seconds[stage] for sample in samples]) for stage in (*STAGES, "total")}
    late = [None if ranks == 1 else spread([0.0001 * rank + 0.00005, 0.0003]) for rank in range(ranks)]
    per_hour = 3600 / float(np.mean(totals))
    return Measured(
        layout={"data": 1, "cfg": 1, "ulysses": ranks, "ring": 1},
        world_size=ranks,
        videos=len(samples),
        seconds_per_video=spread(totals),
        videos_per_hour=per_hour,
        videos_per_hour_per_rank=per_hour / ranks,
        frames_per_second=per_hour * 17 / 3600,
        steps_per_second=len(steps) / sum(sample.seconds["denoise"] for sample in samples),
        stages=stages,
        steps=StepSeconds(
            **{
                name: spread(kinds[skip]) if kinds[skip] else None
                for name, skip in (("computed", False), ("skipped", True))
            }
        ),
        steps_computed=len(steps) / len(samples) - skipped,
        steps_skipped=skipped,
        block_fraction=0.7,
        skew=None if ranks == 1 else Skew(seconds=spread([0.001, 0.002]), late_rank=ranks - 1, late_share=0.8),
        flops=Flops(
            per_video=2.5e12,
            denoise_per_second=3e10,
            peak_per_second_per_rank=6e10,
            share_of_peak=0.5,
            by_kind={"attention": 1.5e12, "feed_forward": 1e12},
            by_stage={"encode": 3e11, "denoise": 2.5e12, "decode": 1e12},
        ),
        collective_bytes_by_kind={} if ranks == 1 else {"ulysses": 123456789, "agreement": 4096},
        collective_seconds_by_kind={} if ranks == 1 else {"ulysses": 0.2, "agreement": 0.01},
        agreement_microseconds=None if ranks == 1 else spread([55.0, 60.0, 80.0]),
        cache_bytes=1 << 20,
        peak_memory_bytes=700 << 20,
        ranks=[
            RankRow(
                rank=rank,
                host=f"node{rank // 8}",
                device=device,
                stages={stage: stages[stage].median * (1 - 0.02 * (rank % 5)) for stage in stages},
                wait_seconds=0.01 * (rank % 3),
                late_seconds=late[rank],
                peak_memory_bytes=700 << 20,
            )
            for rank in range(ranks)
        ],
        samples=samples,
    )


def document(given: Measured, **others: object) -> BenchDocument:
    """A document around the figures of one variant; ``others`` are parts of it."""
    return BenchDocument.model_validate(
        {
            **given.model_dump(),
            "made_with": {
                "config": {
                    "model": {"path": "/models/tiny_wan"},
                    "sampling": {"steps": len(given.samples[0].step_seconds), "height": 64, "width": 64, "frames": 17},
                    "cache": {"method": "dicache", "threshold": 0.1},
                },
                "prompts": ["a red circle"],
                "versions": {"torch": "2.13"},
                "started": "2026-11-28T00:00:00+00:00",
                "command": ["lockstep", "bench", "tiny-wan.yaml"],
            },
            "startup_seconds": Startup(import_=3.0, load=1.0, first_step=0.4),
            "cache_gain": None,
            "cache_off": None,
            **others,
        }
    )


def whole_document(steps: int = 12, ranks: int = 4) -> BenchDocument:
    """With all parts that there may be."""
    machine = Machine(np.random.default_rng(0), between_rounds=0.02, noise=0.02)
    given = machine.measured(steps, ranks)
    off = machine.measured(steps, ranks, skips=False)
    gain = [b.seconds["denoise"] / a.seconds["denoise"] for a, b in zip(given.samples, off.samples, strict=True)]
    cache_gain = CacheGain(
        speedup=spread(gain), end_to_end=spread(gain), ideal=1.43, share_of_ideal=0.9, psnr_db=spread([31.0, 32.0])
    )
    sizes = [size for size in (1, 2, 4, 8, 16) if size <= max(ranks, 2)]
    scale = [
        ScaleRow(
            world_size=size,
            cache_on=given,
            cache_off=off,
            speedup_on=size**0.7,
            speedup_off=size**0.8,
            efficiency_on=size**-0.3,
            efficiency_off=size**-0.2,
        )
        for size in sizes
    ]
    return document(given, cache_off=off, cache_gain=cache_gain, scale=scale, against=machine.measured(steps, ranks))
