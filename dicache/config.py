"""What a user may say about the cache."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

StepIndex = Annotated[int, Field(ge=0)]


class CacheConfig(BaseModel):
    """The method and its settings. A setting that the chosen method does not use is ignored, so that
    ``cache.method`` alone can be overridden to compare methods."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["dicache", "fbcache", "interval", "none"] = Field(
        "dicache", description="dicache measures and aligns, fbcache measures and reuses, interval is a list."
    )
    threshold: float = Field(
        0.2,
        ge=0,
        allow_inf_nan=False,
        description="Steps are skipped below it: higher is faster and less exact.",
    )
    at_threshold: Literal["compute", "skip"] = Field(
        "compute",
        description="If the change is exactly the threshold (dicache): skip as published for HunyuanVideo, else not.",
    )
    warmup_ratio: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Leading share of steps always computed, for each expert (dicache, fbcache): most change.",
    )
    probe_depth: int = Field(
        1, ge=1, description="Blocks run before deciding (dicache, fbcache): more see better and cost more."
    )
    gamma_min: float = Field(
        1.0, ge=0, le=100, allow_inf_nan=False, description="Least gamma (dicache): 1 never steps back from reuse."
    )
    gamma_max: float = Field(
        2.0, ge=0, le=100, allow_inf_nan=False, description="Largest gamma (dicache): bounds how far it extrapolates."
    )
    decide: Literal["together", "per_branch"] = Field(
        "together", description="together skips all guidance branches or none; per_branch as published."
    )
    max_consecutive_skips: int | None = Field(
        None, ge=0, description="Compute after so many skips in a row: bounds the drift."
    )
    force_last: bool = Field(False, description="Always compute the last step: no later step can repair it.")
    replay: Path | None = Field(
        None, description="Run report whose actions are repeated, to compare two builds on one schedule."
    )
    interval: int = Field(2, ge=1, description="Compute every so many steps (interval).")
    compute_steps: tuple[StepIndex, ...] | None = Field(
        None, description="Compute exactly these steps and each expert's first (interval), instead of every n-th."
    )
    estimator: Literal["reuse", "taylor"] = Field(
        "reuse", description="Estimate of a skipped step (interval): last residual, or line through two."
    )

    @model_validator(mode="after")
    def _settings_fit_each_other(self) -> Self:
        if self.gamma_max < self.gamma_min:
            raise ValueError(
                f"cache.gamma_max is {self.gamma_max}, which is below cache.gamma_min {self.gamma_min}: "
                "raise gamma_max or lower gamma_min."
            )
        if self.replay is not None and self.method == "none":
            raise ValueError(
                f"cache.replay is {str(self.replay)!r}, but cache.method none cannot estimate skipped steps: "
                "choose the method of the replayed run."
            )
        return self
