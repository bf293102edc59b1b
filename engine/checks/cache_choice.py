"""What a configuration leaves open about the cache, chosen for the model and the request: the method (`auto`), how much
it skips (`quality`), and settings that authors publish for this model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dicache.config import CacheConfig
from dicache.pairs import MethodName
from dicache.presets import best_uncalibrated, for_model, for_quality
from dicache.published.choice import is_published
from dicache.published.conditions import MEASURED_AT, Conditions
from dicache.section import nest
from dicache.unused import unused
from engine.config import Config, SamplingConfig
from engine.config_file import AnyConfig
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.models.published import known_names
from engine.request import GenerationRequest

_PRECISION = "model.quantize "
"""A calibration holds for weights of another precision as well, which gets a note."""
_PLAIN_REQUEST = {"negative_prompt": "", "image": False, "last_image": False}
"""The request that is assumed for a calibration file without the entry ``request``."""


@dataclass(frozen=True)
class Choice:
    cache: CacheConfig
    """A section in which nothing is left open."""
    reasons: Sequence[str] = field(default_factory=tuple)
    """A sentence fragment for each thing that was asked to be chosen, or that was measured under other conditions."""


def choose_cache(config: Config, request: GenerationRequest, facts: ModelFacts) -> Choice:
    """Fill what the cache section leaves open. A section without open ends, or one that was filled before, comes back
    as it is.

    ``auto`` is the calibrated method where ``cache.calibration`` names a file that holds for this model and sampling,
    else the best one that needs no calibration. A quality is a share of the steps where that can be known beforehand,
    else a threshold (:mod:`dicache.presets`).

    Raises:
        InvalidInput: the named calibration cannot be read.
    """
    cache, names = config.cache, known_names(facts, request)
    if cache.chosen is not None:
        return Choice(cache)
    reasons: list[str] = []
    if cache.method == "auto":
        method, reason = _choose_method(config, request, facts, names)
        cache, left_out = _with_method(cache, method)
        reason += left_out
        reasons.append(f"method {method}: {reason}")
    if cache.method == "none":
        return Choice(cache, reasons)
    published = {key: value for key, value in for_model(cache, names).items() if key not in _given(cache)}
    quality = cache.quality
    cache = cache.changed(published | {"quality": None})
    if quality is not None:
        settings, reason = for_quality(cache, quality, names)
        cache = cache.changed(settings)
        reasons.append(f"quality {quality}: {reason}")
    reasons += [*_carried_over(cache, names, request.sampling), *_other_precision(config, cache, names)]
    if reasons:
        cache = cache.changed({"chosen": "; ".join(reasons)})
    return Choice(cache, reasons)


def with_chosen_cache(config: AnyConfig, request: GenerationRequest, facts: ModelFacts) -> AnyConfig:
    """The configuration with nothing left open in its cache section, for callers who hand it to the engine themselves.

    Raises:
        InvalidInput: as of :func:`choose_cache`.
    """
    return config.model_copy(update={"cache": choose_cache(config, request, facts).cache})


def uses_calibration(cache: CacheConfig, names: Sequence[str]) -> bool:
    """Whether the gate or the estimator takes its numbers from ``cache.calibration``.

    Args:
        names: those of :func:`engine.models.published.published_names`.
    """
    if cache.method == "none" or cache.calibration is None:
        return False
    if cache.gate_name == "calibrated":
        return True
    table = _published_numbers(cache)
    return table is not None and not is_published(table, _named(cache), names)


def why_not_calibrated(config: Config, request: GenerationRequest, facts: ModelFacts) -> str | None:
    """Why ``cache.calibration`` does not hold for this request, or None if it does.

    Raises:
        InvalidInput: it cannot be read.
    """
    from dicache.calibration.file import read_calibration
    from engine.checkpoints.match import calibrated_for, calibrated_request, differences

    assert config.cache.calibration is not None
    try:
        seen = read_calibration(config.cache.calibration).made_with
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    now = calibrated_for(config, request.sampling) | {"request": calibrated_request(request)}
    changed = differences({"request": _PLAIN_REQUEST} | seen, now)
    if changed := [line for line in changed if not line.startswith(_PRECISION)]:
        return changed[0]
    return "the model has two transformers" if facts.boundary_timestep is not None else None


def _choose_method(
    config: Config, request: GenerationRequest, facts: ModelFacts, names: Sequence[str]
) -> tuple[MethodName, str]:
    otherwise, reason = best_uncalibrated(names)
    if config.cache.calibration is None:
        return otherwise, f"no cache.calibration is named; {reason}"
    if problem := why_not_calibrated(config, request, facts):
        return otherwise, f"cache.calibration does not hold here, for {problem}; {reason}"
    return "calibrated", "cache.calibration holds for this model and sampling"


def _published_numbers(cache: CacheConfig) -> Mapping[str, object] | None:
    """Those that the gate takes, by model, unless it takes none or has its own."""
    return cache.gate.numbers() if cache.gate is not None else None


def _named(cache: CacheConfig) -> str | None:
    """The model whose published numbers the user asks for."""
    return getattr(cache.gate, "published", None)


def _carried_over(cache: CacheConfig, names: Sequence[str], sampling: SamplingConfig) -> list[str]:
    """A note, if published numbers were measured with another sampling than this run's."""
    table = None if cache.replay is not None else _published_numbers(cache)
    if table is None:
        return []
    named = _named(cache)
    name = next((name for name in ([named] if named else names) if name in table), None)
    if name is None:
        return []  # refused later, in a sentence of its own
    measured = MEASURED_AT[name]
    here = Conditions(sampling.steps, sampling.shift, sampling.guidance)
    if here == measured:
        return []
    said = f"{cache.gate_name}'s numbers for {name} are of {measured}, and this run has {here}"
    if cache.gate_name == "teacache":
        return [f"{said}: they are used as they are, so cache.threshold may skip more or fewer steps than published"]
    rules = []
    if here.shift != measured.shift:
        rules.append("the table is carried over by noise level")
    elif here.steps != measured.steps:
        rules.append("the nearest entries are taken, as its authors do")
    if here.guidance != measured.guidance:
        rules.append("guidance is not accounted for")
    return [f"{said}: {', '.join(rules)}"]


def _other_precision(config: Config, cache: CacheConfig, names: Sequence[str]) -> list[str]:
    """A note, if the calibration that is used was made with weights of another precision."""
    if cache.calibration is None or not uses_calibration(cache, names):
        return []
    from dicache.calibration.file import read_calibration

    try:
        model = read_calibration(cache.calibration).made_with["model"]
    except (ValueError, KeyError):
        return []  # refused later, in a sentence of its own
    made, here = model.get("quantize", "none"), config.model.quantize
    if made == here:
        return []
    return [
        f"{cache.calibration} was made with model.quantize {made}, and this run has {here}: the errors differ a bit"
    ]


def _given(cache: CacheConfig) -> set[str]:
    """The keys that were set. A warm-up in steps counts as one in a ratio, and the other way round."""
    given = {key for key, value in cache.given().items() if value is not None}
    warmup = {"warmup_ratio", "warmup_steps"}
    return given | warmup if given & warmup else given


def _with_method(cache: CacheConfig, method: MethodName) -> tuple[CacheConfig, str]:
    """The section with the method in the place of auto, and a phrase on the given keys that it does not use."""
    given = {**cache.given(), "method": method}
    left_out = unused(given)
    kept = {key: value for key, value in given.items() if key not in left_out}
    usual = CacheConfig()
    missed = [key for key in left_out if given[key] != getattr(usual, key, None)]
    said = f", which does not use cache.{' and cache.'.join(missed)}" if missed else ""
    return CacheConfig.model_validate(nest(kept)), said
