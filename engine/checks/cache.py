"""Whether the cache section fits the model and the request: methods, numbers of the model, calibrations."""

from __future__ import annotations

from engine.checks.cache_choice import uses_calibration, why_not_calibrated
from engine.config import Config
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.models.published import published_names
from engine.request import GenerationRequest


def check_cache(config: Config, request: GenerationRequest, facts: ModelFacts) -> None:
    """Refuse settings that do not fit; imports torch, which takes seconds.

    Args:
        config: with nothing left open in its cache section.

    Raises:
        InvalidInput: one sentence that names the key and the value.
    """
    from dicache.controller import Controller
    from engine.denoise.guidance import all_lanes

    lanes = all_lanes(len(request.prompts), facts.num_branches(request.sampling.guidance))
    steps, names = request.sampling.steps, published_names(facts, request)
    try:
        for span in _spans(config, request, facts):
            # allocates nothing yet
            controller = Controller(config.cache, lanes, steps, facts.num_layers, span, names, request.sampling.shift)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    if controller.runs_after_estimates and facts.family.text_stream:
        raise InvalidInput(
            f"cache.last_blocks is {config.cache.last_blocks}, but the blocks of a {facts.family.name} model change "
            "the text along with the video, and only the video is estimated: leave it out."
        )
    if uses_calibration(config.cache, names):
        _check_calibration(config, request, facts)
    for signal in controller.step_signals:
        if signal not in ("latents", *facts.family.signals):
            raise InvalidInput(
                f"cache.gate.signal is {signal}, which a {facts.family.name} model does not show: "
                f"use {' or '.join(facts.family.signals)}."
            )


def _check_calibration(config: Config, request: GenerationRequest, facts: ModelFacts) -> None:
    """Numbers measured on another model or sampling are never used silently."""
    if problem := why_not_calibrated(config, request, facts):
        raise InvalidInput(
            f"cache.calibration {str(config.cache.calibration)!r} does not hold for this run, for {problem}: run "
            "`lockstep calibrate` for it."
        )


def _spans(config: Config, request: GenerationRequest, facts: ModelFacts) -> tuple[range, ...]:
    """The steps of each of the model's transformers."""
    if facts.boundary_timestep is None:
        return (range(request.sampling.steps),)
    import torch  # and diffusers, for what only the sampler knows

    from engine.components.samplers import load_scheduler_config
    from engine.components.wan.scheduler import make_wan_scheduler  # of the only family with two transformers
    from engine.denoise.experts import split_steps

    scheduler = make_wan_scheduler(load_scheduler_config(config), request.sampling, torch.device("cpu"))
    return split_steps(scheduler.timesteps, facts.boundary_timestep)
