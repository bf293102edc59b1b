"""What `lockstep plan --report FILE` writes. Everything in it is predicted. Money has the unit of the given price."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """A part of the document: immutable, and without keys that the schema does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Seconds(Part):
    """Of one video, from the prompt to the written file, loading left out."""

    cache_off: float
    cache_on: float = Field(description="With the configuration's cache; as without where it has none.")


class StepSeconds(Part):
    """Of one denoise step, all its lanes."""

    computed: float
    skipped: float | None = Field(description="Null without a cache.")


class Layout(Part):
    """Degrees, and how the weights lie."""

    data: int
    cfg: int
    ulysses: int
    ring: int
    shard_weights: bool = Field(description="`parallel.shard_weights`: asked for, or needed to fit.")


class Limits(Part):
    """What a video's time with the cache goes to."""

    by_group: dict[str, float] = Field(description="Seconds: `compute`, `link`, `decode`, `fixed`; the largest first.")
    by_part: dict[str, float] = Field(description="Seconds by part, without the cache and with it under `_on`.")
    largest: str = Field(description="The group with most seconds.")


class Row(Part):
    """One number of GPUs."""

    gpus: int
    layout: Layout | None = Field(description="The fastest for one video with the cache; null where nothing fits.")
    seconds_per_video: Seconds | None = Field(description="`cache_off` of the layout that is fastest without.")
    efficiency: Seconds | None = Field(
        description="Shares: GPU-seconds of a video on the fewest GPUs that it fits on, over those here."
    )
    videos_per_hour: float | None = Field(description="Of the layout that makes the most.")


class Configured(Part):
    """What the configuration itself asks for on these GPUs, where it fixes degrees that the plan leaves open."""

    layout: Layout
    seconds_per_video: Seconds
    videos_per_hour: float
    fits: bool


class PlanDocument(Part):
    """A plan."""

    schema_: Literal[1] = Field(1, alias="schema")
    predicted: Literal[True] = True
    model: str
    video: dict[str, int] = Field(description="`frames`, `height`, `width`, `steps`.")
    cluster: dict[str, str | int] = Field(description="`nodes`, `gpus_per_node`, `gpu`, `inside`, `between`.")
    goal: str
    assumptions: dict[str, str] = Field(description="In words: precision, attention kernel, skip share, rates.")
    skip_share: float
    seconds_per_video: Seconds
    step_seconds: StepSeconds
    videos_per_hour: float = Field(description="Of all replicas, with the cache.")
    memory_bytes_per_gpu: int
    fits: bool
    start_seconds: float = Field(description="From the start of the processes to the first video.")
    layout: Layout
    why: str
    configured: Configured | None = Field(
        description="The layout that `lockstep generate` and `lockstep bench` take with this configuration on all of "
        "the GPUs; null where it cannot run on them."
    )
    limits: Limits
    cost_per_video: float | None = Field(description="Null without --price-per-gpu-hour.")
    scaling: list[Row]
    stops_paying: dict[str, int | None] = Field(
        description="`cache_off`, `cache_on`: the most GPUs for one video with an efficiency of at least 50%."
    )

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
