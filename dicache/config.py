"""The ``cache`` section of a configuration: its keys, their defaults and what is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from dicache.defaults import own, probe_depth, published, shared, warmup_steps, with_defaults
from dicache.estimators.registry import AnyEstimator
from dicache.gates.registry import GATES, AnyGate
from dicache.pairs import Anchor, MethodName
from dicache.section import flatten, nest, shown
from dicache.unused import complete

Quality = Literal["draft", "standard", "high"]
HOW_MUCH = (
    "threshold",
    *sorted({f"gate.{key}" for settings in GATES.values() for key in settings.how_much_keys}),
    "replay",
)
"""Keys in the place of which a quality stands, or they in its."""
_NOT_WITH_AUTO = ("gate", "estimator", "anchor", "last_blocks", *HOW_MUCH)


class CacheConfig(BaseModel):
    """The method and its settings. A key that is left out is as the authors of the method publish it; a key that the
    method does not use is None, and is refused where it is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal[MethodName, "auto"] = Field(
        "dicache",
        description="A pair of a gate and an estimator: docs/methods.md tells them apart. auto takes the best one for "
        "the model, and says which and why.",
    )
    quality: Quality | None = Field(
        None,
        description="How near to the uncached video, instead of a threshold, interval or steps_skipped: draft skips "
        "most, high least.",
    )
    gate: AnyGate | None = Field(
        default_factory=own("gate"),
        description="When to skip: a name instead of the method's own gate, or a section with settings that belong to "
        "this gate alone, and perhaps its `name`.",
    )
    estimator: AnyEstimator | None = Field(
        default_factory=own("estimator"),
        description="How to estimate a skipped step: a name instead of the method's own estimator, or a section, as "
        "for the gate.",
    )
    anchor: Anchor | None = Field(
        None, description="What estimates are added to, instead of as the method has it: the last two cache velocities."
    )
    threshold: float | None = Field(
        default_factory=shared("threshold", 0.2),
        ge=0,
        allow_inf_nan=False,
        description="Steps are skipped below it: higher is faster and less exact. Each gate has a scale of its own; "
        "interval, list and calibrated have none.",
    )
    warmup_ratio: float | None = Field(
        default_factory=shared("warmup_ratio", 0.2),
        ge=0,
        le=1,
        description="Leading share of steps always computed, for each expert: most change.",
    )
    warmup_steps: int | None = Field(
        default_factory=warmup_steps, ge=0, description="A number of steps in the place of warmup_ratio."
    )
    probe_depth: int | None = Field(
        default_factory=probe_depth,
        ge=1,
        description="Blocks that run before the decision, for methods that look at their output: more of them measure "
        "better and cost more.",
    )
    last_blocks: int = Field(
        0,
        ge=0,
        description="Blocks at the end of the model that run at every step, where all between them and the probe is "
        "estimated: more of them are more exact and cost more. DBCache's Bn.",
    )
    decide: Literal["together", "per_branch"] = Field(
        "together", description="together skips all guidance branches or none; per_branch as published."
    )
    max_consecutive_skips: int | None = Field(
        default_factory=published("max_consecutive_skips", None),
        ge=0,
        description="Compute after so many skips in a row: bounds the drift. MagCache's K, DBCache's MC.",
    )
    max_skips: int | None = Field(
        None, ge=0, description="Compute all steps after so many skips in all, for each expert. DBCache's M."
    )
    force_last: bool = Field(
        default_factory=published("force_last", False),
        description="Always compute the last step: no later step can repair it.",
    )
    corrector: bool = Field(
        default_factory=published("corrector", False),
        description="Go back over skipped steps once the computed step after them is known, and sample them again with "
        "interpolated velocities.",
    )
    calibration: Path | None = Field(
        None,
        description="File of `lockstep calibrate`, for this model and sampling alone. The methods that need one take "
        "it (calibrated, fitted; magcache and teacache where nothing is published), the others ignore it.",
    )
    replay: Path | None = Field(
        None,
        description="Run report whose actions are repeated in the place of the gate's, to compare two builds on one "
        "schedule.",
    )
    chosen: str | None = Field(
        None,
        description="What was left to Lockstep, and why it became this: written into reports. A section that has "
        "it is taken as it stands.",
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unused_keys(cls, section: Any) -> Any:
        return complete(section) if isinstance(section, Mapping) else section

    @field_validator("gate", "estimator", mode="wrap")
    @classmethod
    def _settings_of_the_method(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        try:
            settings = handler(value)
        except ValidationError as error:
            # pydantic puts the name of the gate before the key, which is not in the user's file
            problems: Any = [{**problem, "loc": problem["loc"][1:]} for problem in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(error.title, problems) from None
        return None if settings is None else with_defaults(info.field_name, settings, info.data)

    @model_validator(mode="after")
    def _refuse_two_ways_of_saying_how_much(self) -> Self:
        given = {key: value for key, value in self.given().items() if value is not None}
        if self.method == "auto" and (key := next((key for key in _NOT_WITH_AUTO if key in given), None)):
            raise ValueError(
                f"cache.{key} is {shown(given[key])}, but cache.method is auto, which chooses that itself: "
                "name a method, or say how exact with cache.quality."
            )
        if self.chosen is not None and (self.method == "auto" or self.quality is not None):
            open_key = "method is auto" if self.method == "auto" else f"quality is {self.quality}"
            raise ValueError(
                f"cache.chosen says that nothing is left to choose, but cache.{open_key}: leave cache.chosen out."
            )
        if self.quality is not None and (key := next((key for key in HOW_MUCH if key in given), None)):
            raise ValueError(
                f"cache.{key} is {shown(given[key])}, but cache.quality is {self.quality}, which sets how "
                "much is skipped as well: leave one of them out."
            )
        return self

    @model_validator(mode="after")
    def _settings_fit_each_other(self) -> Self:
        if self.gate is None or self.estimator is None:
            return self
        if self.gate.name == "calibrated" and self.calibration is None:
            raise ValueError(
                "cache.calibration is left out, but the gate is calibrated: give the file of `lockstep calibrate`."
            )
        if self.estimator.name == "fitted" and self.calibration is None:
            raise ValueError(
                "cache.calibration is left out, but the estimator is fitted: give the file of `lockstep calibrate`."
            )
        if self.estimator.name == "fitted" and self.anchor not in (None, "nothing"):
            raise ValueError(
                f"cache.anchor is {self.anchor}, but fitted weights are of velocities: use nothing, or leave it out."
            )
        if self.replay is None and self.gate.needs_weights_that_add_up and not self.estimator.weights_add_up:
            raise ValueError(
                f"cache.estimator is {self.estimator.name}, whose weights do not add up to 1, but the gate "
                f"{self.gate.name} measures the error of weights that do: use another estimator, or another gate."
            )
        if self.gate.name == "easycache" and self.decide == "per_branch":
            raise ValueError(
                "cache.decide is per_branch, but easycache decides by the cond branch for both: use together."
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_still_open(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All keys, for reports and stored jobs. Of a section with `auto` or a quality only the given keys, since the
        defaults of the others would be read back as choices of the user."""
        section: dict[str, Any] = handler(self)
        if self.method != "auto" and self.quality is None:
            return section
        given = self.given()
        return nest({key: value for key, value in flatten(section).items() if key in given})

    @property
    def files(self) -> dict[str, Path]:
        """The files that are named, by key."""
        named = {"calibration": self.calibration, "replay": self.replay}
        return {key: path for key, path in named.items() if path is not None}

    @property
    def gate_name(self) -> str:
        """The gate that was chosen, or the method's own."""
        assert self.gate is not None, f"the method {self.method} has no gate"
        return self.gate.name

    @property
    def estimator_name(self) -> str:
        """The estimator that was chosen, or the method's own."""
        assert self.estimator is not None, f"the method {self.method} has no estimator"
        return self.estimator.name

    def given(self) -> dict[str, Any]:
        """The keys that were set, by dotted key: ``{"gate": "interval", "gate.interval": 3}``."""
        return flatten({key: getattr(self, key) for key in type(self).model_fields if key in self.model_fields_set})

    def changed(self, changes: Mapping[str, Any]) -> "CacheConfig":
        """The configuration with other settings, checked again, and with the defaults that follow from them.

        Args:
            changes: by dotted key, as of :meth:`given`.

        Raises:
            ValueError: the settings do not fit each other.
        """
        return CacheConfig.model_validate(nest({**self.given(), **changes}))
