"""What a user may say about the cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

StepIndex = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]

MethodName = Literal[
    "dicache",
    "fbcache",
    "dbcache",
    "teacache",
    "magcache",
    "easycache",
    "innovation",
    "interval",
    "taylorseer",
    "hicache",
    "abcache",
    "foca",
    "calibrated",
    "none",
]
GateName = Literal[
    "probe", "first_block", "teacache", "magcache", "easycache", "innovation", "calibrated", "interval", "list"
]
EstimatorName = Literal[
    "reuse", "alignment", "projection", "taylor", "hermite", "adams_bashforth", "foca", "ridge", "fitted"
]


PAIRS: dict[MethodName, tuple[GateName, EstimatorName]] = {
    "dicache": ("probe", "alignment"),
    "fbcache": ("first_block", "reuse"),
    "dbcache": ("first_block", "reuse"),
    "teacache": ("teacache", "reuse"),
    "magcache": ("magcache", "reuse"),
    "easycache": ("easycache", "reuse"),
    "innovation": ("innovation", "alignment"),
    "interval": ("interval", "reuse"),
    "taylorseer": ("interval", "taylor"),
    "hicache": ("interval", "hermite"),
    "abcache": ("interval", "adams_bashforth"),
    "foca": ("interval", "foca"),
    "calibrated": ("calibrated", "fitted"),
}

_PUBLISHED: dict[str, dict[str, Any]] = {
    "fbcache": {"threshold": 0.05, "warmup_ratio": 0.0},
    "dbcache": {"threshold": 0.08, "warmup_ratio": None, "warmup_steps": 8},
    "teacache": {"threshold": 0.1, "warmup_ratio": None, "warmup_steps": 1, "force_last": True},
    "magcache": {"threshold": 0.12, "max_consecutive_skips": 2},
    "easycache": {"threshold": 0.05, "warmup_ratio": None, "warmup_steps": 10, "force_last": True},
    "innovation": {"threshold": 0.005, "warmup_ratio": None, "warmup_steps": 3, "corrector": True},  # Lockstep's own
    "calibrated": {"corrector": True},
    "interval": {"warmup_ratio": 0.0},
    "taylorseer": {"interval": 5, "warmup_ratio": None, "warmup_steps": 3, "order": 1},
    "hicache": {"interval": 5, "warmup_ratio": None, "warmup_steps": 3, "order": 2},
    "abcache": {"interval": 6, "warmup_ratio": None, "warmup_steps": 5, "order": 1},
    "foca": {"interval": 5, "warmup_ratio": None, "warmup_steps": 3},
}
METHOD_OF_GATE: dict[GateName, MethodName] = {
    "probe": "dicache",
    "first_block": "fbcache",
    "teacache": "teacache",
    "magcache": "magcache",
    "easycache": "easycache",
    "innovation": "innovation",
    "interval": "interval",
}

Quality = Literal["draft", "standard", "high"]
_NOT_WITH_QUALITY = ("threshold", "interval", "steps_skipped", "compute_steps", "replay")
_NOT_WITH_AUTO = ("gate", "estimator", "anchor", "order", *_NOT_WITH_QUALITY)


def _published(name: str, otherwise: Any) -> Callable[[dict[str, Any]], Any]:
    """What the authors of the chosen gate and method publish for a setting that is left out, or ``otherwise``."""

    def value(values: dict[str, Any]) -> Any:
        method = values.get("method", "dicache")
        settings = _PUBLISHED.get(method, {})
        gate: GateName | None = values.get("gate")
        if gate is not None and gate != PAIRS.get(method, (None,))[0]:  # all but these is the gate's
            own = {"order": settings.get("order", 1), "corrector": settings.get("corrector", False)}
            settings = _PUBLISHED.get(METHOD_OF_GATE.get(gate, ""), {}) | own
        if values.get("use_ret_steps") and "teacache" in (method, gate):
            settings = settings | {"warmup_steps": 5, "force_last": False}
        return settings.get(name, otherwise)

    return value


def _has_no_ratio(values: dict[str, Any]) -> bool:
    return values.get("warmup_ratio") is None


class CacheConfig(BaseModel):
    """The method and its settings. A setting that the chosen method does not use is ignored, so that
    ``cache.method`` alone can be overridden to compare methods. A setting that is left out is as the authors of the
    method publish it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: MethodName | Literal["auto"] = Field(
        "dicache",
        description="A pair of a gate and an estimator: docs/methods.md tells them apart. auto takes the best one for "
        "the model, and says which and why.",
    )
    quality: Quality | None = Field(
        None,
        description="How near to the uncached video, instead of a threshold, interval or steps_skipped: draft skips "
        "most, high least.",
    )
    gate: GateName | None = Field(None, description="When to skip, instead of as the method has it.")
    estimator: EstimatorName | None = Field(
        None, description="How to estimate a skipped step, instead of as the method has it."
    )
    anchor: Literal["input", "probe", "latents", "nothing"] | None = Field(
        None, description="What estimates are added to, instead of as the method has it: the last two cache velocities."
    )
    published: str | None = Field(
        None,
        description="Model whose published polynomial or table is used (teacache, magcache), where several fit.",
    )
    use_ret_steps: bool = Field(
        False, description="TeaCache's other variant for Wan: more steps computed first, and other polynomials."
    )
    threshold: float = Field(
        default_factory=_published("threshold", 0.2),
        ge=0,
        allow_inf_nan=False,
        description="Steps are skipped below it: higher is faster and less exact. Each gate has a scale of its own.",
    )
    at_threshold: Literal["compute", "skip"] = Field(
        "compute",
        description="If the change is exactly the threshold (dicache): skip as published for HunyuanVideo, else not.",
    )
    warmup_ratio: float | None = Field(
        default_factory=_published("warmup_ratio", 0.2),
        ge=0,
        le=1,
        description="Leading share of steps always computed, for each expert: most change.",
    )
    warmup_steps: int | None = Field(
        default_factory=lambda values: _published("warmup_steps", 0)(values) if _has_no_ratio(values) else None,
        ge=0,
        description="A number of steps in the place of warmup_ratio.",
    )
    probe_depth: int = Field(
        1, ge=1, description="Blocks run before deciding, where a method looks at them: more see better and cost more."
    )
    gamma_min: float = Field(
        1.0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Least gamma (alignment, projection): 1 never steps back from reuse.",
    )
    gamma_max: float = Field(
        2.0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Largest gamma (alignment, projection): bounds how far it extrapolates.",
    )
    decide: Literal["together", "per_branch"] = Field(
        "together", description="together skips all guidance branches or none; per_branch as published."
    )
    max_consecutive_skips: int | None = Field(
        default_factory=_published("max_consecutive_skips", None),
        ge=0,
        description="Compute after so many skips in a row: bounds the drift. MagCache's K, DBCache's MC.",
    )
    max_skips: int | None = Field(
        None, ge=0, description="Compute all steps after so many skips in all, for each expert. DBCache's M."
    )
    force_last: bool = Field(
        default_factory=_published("force_last", False),
        description="Always compute the last step: no later step can repair it.",
    )
    replay: Path | None = Field(
        None, description="Run report whose actions are repeated, to compare two builds on one schedule."
    )
    calibration: Path | None = Field(
        None,
        description="File of `lockstep calibrate`, for this model and sampling alone (calibrated, fitted; magcache "
        "and teacache where nothing is published).",
    )
    steps_skipped: float = Field(
        0.65, gt=0, lt=1, description="Share of the steps to skip (calibrated): the nearest that the file has."
    )
    brake: float | None = Field(
        2.0,
        gt=0,
        allow_inf_nan=False,
        description="Compute early once a gap's damage comes to so many times what was planned (calibrated); "
        "null keeps to the plan, and measures nothing.",
    )
    release: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Skip a planned step where the damage stays below that share of its gap's plan (calibrated).",
    )
    interval: int = Field(
        default_factory=_published("interval", 2),
        ge=1,
        description="Compute every so many steps after the warm-up (interval).",
    )
    compute_steps: tuple[StepIndex, ...] | None = Field(
        None, description="Compute exactly these steps and each expert's first (list, or interval instead of its own)."
    )
    order: int = Field(
        default_factory=_published("order", 1),
        ge=1,
        le=2,
        description="Highest derivative (taylor, hermite, adams_bashforth): 2 keeps one residual more.",
    )
    clock: Literal["step", "sigma"] = Field(
        "step", description="What time is counted in (taylor): steps as published, or noise levels."
    )
    contraction: float = Field(
        0.5, gt=0, allow_inf_nan=False, description="Scale of the polynomials (hermite): smaller extrapolates less."
    )
    shrinkage: float = Field(
        0.3, gt=0, allow_inf_nan=False, description="Pull toward reuse (ridge): larger extrapolates less."
    )
    differences: int = Field(
        2, ge=1, le=2, description="Differences of computed steps to fit (ridge): 2 keeps one residual more."
    )
    corrector: bool = Field(
        default_factory=_published("corrector", False),
        description="Go back over skipped steps once the computed step after them is known, and sample them again with "
        "interpolated velocities.",
    )
    polynomial: tuple[Finite, ...] | None = Field(
        None, min_length=1, description="Coefficients of your own, highest power first (teacache)."
    )
    signal: Literal["timestep_embedding", "timestep_modulation", "modulated_input"] | None = Field(
        None, description="What a polynomial of your own looks at (teacache)."
    )
    ratios: tuple[Ratio, ...] | None = Field(
        None, min_length=1, description="A table of your own, an entry a step (magcache); other lengths are stretched."
    )

    chosen: str | None = Field(
        None,
        description="What was left to Lockstep, and why it became this: written into reports. A section that has "
        "it is taken as it stands.",
    )

    @model_validator(mode="after")
    def _nothing_is_said_twice(self) -> Self:
        given = [key for key in self.model_fields_set if getattr(self, key) is not None]
        if self.method == "auto" and (key := next((key for key in _NOT_WITH_AUTO if key in given), None)):
            raise ValueError(
                f"cache.{key} is {_shown(getattr(self, key))}, but cache.method is auto, which chooses that itself: "
                "name a method, or say how exact with cache.quality."
            )
        if self.quality is None:
            return self
        if self.method == "none":
            raise ValueError(f"cache.quality is {self.quality}, but cache.method none is exact: leave it out.")
        if key := next((key for key in _NOT_WITH_QUALITY if key in given), None):
            raise ValueError(
                f"cache.{key} is {_shown(getattr(self, key))}, but cache.quality is {self.quality}, which sets how "
                "much is skipped as well: leave one of them out."
            )
        if self.gate == "list":
            raise ValueError(f"cache.quality is {self.quality}, but cache.gate is list, which is exact: leave it out.")
        return self

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
        if self.method in ("none", "auto"):
            return self
        if self.gate == "list" and self.compute_steps is None:
            raise ValueError("cache.gate is list, but there is no list: give cache.compute_steps, or use interval.")
        if self.gate_name == "calibrated" and self.calibration is None:
            raise ValueError(
                "cache.calibration is left out, but the gate is calibrated: give the file of `lockstep calibrate`."
            )
        if self.estimator_name == "fitted" and self.calibration is None:
            raise ValueError(
                "cache.calibration is left out, but the estimator is fitted: give the file of `lockstep calibrate`."
            )
        if self.estimator_name == "fitted" and self.anchor not in (None, "nothing"):
            raise ValueError(
                f"cache.anchor is {self.anchor}, but fitted weights are of velocities: use nothing, or leave it out."
            )
        if self.gate_name == "teacache" and (self.polynomial is None) != (self.signal is None):
            missing, given = ("signal", "polynomial") if self.signal is None else ("polynomial", "signal")
            value = getattr(self, given)
            raise ValueError(
                f"cache.{given} is {value}, but cache.{missing} is left out: a polynomial of your own needs both."
            )
        if self.gate_name == "easycache" and self.decide == "per_branch":
            raise ValueError(
                "cache.decide is per_branch, but easycache decides by the cond branch for both: use together."
            )
        return self

    @property
    def gate_name(self) -> GateName:
        """The gate that was chosen, or the method's own."""
        assert self.method != "auto", "a method is chosen before it is asked"
        return self.gate or PAIRS[self.method][0]

    @property
    def estimator_name(self) -> EstimatorName:
        """The estimator that was chosen, or the method's own."""
        assert self.method != "auto", "a method is chosen before it is asked"
        return self.estimator or PAIRS[self.method][1]


def _shown(value: Any) -> str:
    return repr(str(value)) if isinstance(value, Path) else str(value)
