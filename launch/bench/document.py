"""The results of `lockstep bench`, as they stand in `bench.json`.

Seconds are wall-clock seconds. Where ranks differ, the largest over the ranks of a replica counts: a replica is as
fast as its slowest rank. A :class:`Spread` is over all counted samples, warm-up left out.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """A part of the document: immutable, and without keys that the schema does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class Spread(Part):
    """How a measured number is spread over its samples."""

    median: float
    p10: float = Field(description="A tenth of the samples are not above it.")
    p90: float
    p99: float
    samples: int = Field(description="How many there were.")


class Sample(Part):
    """One counted video."""

    round: int = Field(description="From 0; in each round every variant makes the same videos by turns.")
    replica: int = Field(description="Number of the data replica that made it.")
    prompt: int = Field(description="Number of the prompt, from 0.")
    seed: int
    seconds: dict[str, float] = Field(
        description="By stage: `encode`, `denoise`, `decode`, `write`, and `total` of the video without loading."
    )
    step_seconds: list[float] = Field(description="Of each denoise step, on the slowest rank.")
    step_actions: list[str] = Field(
        description="Of each step: `warmup`, `compute`, or `skip` where every lane skipped it."
    )
    block_fraction: float = Field(description="Transformer blocks that ran, over those without a cache.")
    latents_sha256: str
    queued_seconds: dict[str, float] = Field(
        {},
        description="Of `seconds`, by the same stages: ready to run while other processes had the processor (Linux), "
        "largest over the ranks. Empty where it was not measured.",
    )
    idle_seconds: dict[str, float] = Field(
        {},
        description="Of `seconds`, by the same stages: neither at work on the processor nor ready to be, so asleep or "
        "waiting for a disk, device or rank; least over the ranks, of denoising step by step. Empty as above.",
    )
    step_idle_seconds: list[float] = Field(
        [], description="The same of each denoise step, as `step_seconds`. Empty as above."
    )
    reference_seconds: float | None = Field(
        None,
        description="Of a fixed transformer block, timed just before the video: how fast the machine was; largest over "
        "the ranks. Null where it was not timed.",
    )


class StepSeconds(Part):
    """Seconds of one denoise step, all its lanes, collectives and the sampler included."""

    computed: Spread | None = Field(description="Null where no step was computed.")
    skipped: Spread | None = Field(description="Null where no step was skipped.")


class RankRow(Part):
    """What one rank did."""

    rank: int
    host: str
    device: str
    stages: dict[str, float] = Field(description="Median seconds of a video by stage, on this rank.")
    wait_seconds: float = Field(description="Median over videos: time in the steps' agreement, with its waits.")
    late_seconds: Spread | None = Field(
        description="By step: how much later than the first rank of its replica it came to where ranks meet; null on "
        "one rank. It is the longest wait of the replica in all collectives of the step less its own, so that clocks "
        "of machines need not agree."
    )
    peak_memory_bytes: int


class Skew(Part):
    """How far apart the ranks of a replica come to where they meet in a step, its collectives."""

    seconds: Spread = Field(description="By step: the last rank's arrival after the first's.")
    late_rank: int | None = Field(
        description="The rank that came last in more than two thirds of the steps and not by chance; else null."
    )
    late_share: float = Field(description="The share of steps in which the rank that came last most often did so.")


class Flops(Part):
    """Model FLOPs (a multiplication and an addition are two), from the formula of `engine.cost`, all ranks together."""

    per_video: float = Field(description="Of the denoise steps, of what ran: skipped blocks are not counted.")
    denoise_per_second: float = Field(description="Of the denoise stage, over its median seconds.")
    peak_per_second_per_rank: float | None = Field(
        description="Of a large matrix product in the transformer's dtype, measured on this device at the start with "
        "as many ranks at work as in the run; the least over the ranks."
    )
    share_of_peak: float | None = Field(description="`denoise_per_second` over the ranks' peaks together.")
    by_kind: dict[str, float] = Field(description="`per_video` by kind of layer.")
    by_stage: dict[str, float] = Field(
        {},
        description="Of a video: `encode` (text and image encoders, and the VAE's encoder of a given image), `denoise` "
        "(`per_video`), and `decode`. A stage is left out where the model's configuration lacks a size.",
    )


class CacheGain(Part):
    """What the cache saves, from the variants with and without it in the same rounds."""

    speedup: Spread = Field(description="Denoise seconds without the cache over those with it, video by video.")
    end_to_end: Spread = Field(description="The same of whole videos.")
    ideal: float = Field(description="1 / `block_fraction`: the speed-up were nothing but blocks to cost time.")
    share_of_ideal: float | None = Field(
        description="Saved denoise time over the time that the left-out blocks would take; null where none was left "
        "out."
    )
    psnr_db: Spread | None = Field(description="Of decoded frames against those without the cache; null where equal.")


class Measured(Part):
    """One configuration on one layout."""

    layout: dict[str, int] = Field(description="Degrees `data`, `cfg`, `ulysses`, `ring`.")
    world_size: int
    videos: int
    seconds_per_video: Spread = Field(description="From the start of encoding to the written file.")
    videos_per_hour: float = Field(
        description="Of all replicas together: by the mean of the seconds, since a queue takes them all."
    )
    videos_per_hour_per_rank: float
    frames_per_second: float = Field(description="Finished frames, of all replicas together.")
    steps_per_second: float = Field(description="Denoise steps of one replica while it denoises.")
    stages: dict[str, Spread]
    steps: StepSeconds
    steps_computed: float = Field(description="Mean over videos.")
    steps_skipped: float = Field(description="Mean over videos.")
    block_fraction: float = Field(description="Mean over videos.")
    skew: Skew | None = Field(description="Null on one rank.")
    flops: Flops | None = Field(description="Null where texts were encoded by an earlier run.")
    collective_bytes_by_kind: dict[str, int] = Field(description="Sent by a rank for a video; largest over ranks.")
    collective_seconds_by_kind: dict[str, float] = Field(
        description="Median seconds a video in such collectives, waiting included; largest over ranks."
    )
    agreement_microseconds: Spread | None = Field(
        description="Of one step's agreement on the rank that came last, which does not wait; null on one rank."
    )
    cache_bytes: int
    peak_memory_bytes: int
    ranks: list[RankRow]
    samples: list[Sample]


class Startup(Part):
    """Seconds before the first video, largest over the ranks."""

    import_: float = Field(
        alias="import", description="From the start of the process until torch and diffusers are imported."
    )
    load: float = Field(description="Loading the weights.")
    first_step: float = Field(description="The first denoise step of the first video.")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ScaleRow(Part):
    """One number of ranks of `--scale`."""

    world_size: int
    cache_on: Measured
    cache_off: Measured | None
    speedup_on: float = Field(description="Seconds a video on the fewest ranks, over those here, with the cache.")
    speedup_off: float | None
    efficiency_on: float = Field(description="The speed-up over the ratio of ranks.")
    efficiency_off: float | None


class BenchDocument(Measured):
    """`bench.json`: the configuration as given, and beside it the same without its cache."""

    schema_: Literal[1] = Field(1, alias="schema")
    made_with: dict[str, Any] = Field(
        description="Resolved configuration, versions, device, hosts, launcher, command, time of the start (UTC); of "
        "`--against-build` both `builds`, `given` and `against`: folder, version and commit."
    )
    startup_seconds: Startup
    cache_gain: CacheGain | None = Field(description="Null where the configuration has no cache.")
    cache_off: Measured | None = Field(
        description="The same videos without the cache, by turns; null where there is none."
    )
    against: Measured | None = Field(
        None,
        description="By turns: `--against`, or this configuration in the build of `--against-build`; null without.",
    )
    scale: list[ScaleRow] = Field([], description="`--scale`, fewest ranks first.")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @property
    def measured(self) -> Measured:
        """The configuration as given, without what is of the whole run."""
        return Measured(**{name: getattr(self, name) for name in Measured.model_fields})
