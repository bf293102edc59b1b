"""Everything that can be known to be wrong before weights load: checked here, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.checks.cache_choice import choose_cache, uses_calibration, why_not_calibrated
from engine.checks.layout import lay_out
from engine.checks.model import check_device, check_weights, read_checked_facts
from engine.checks.outputs import check_outputs
from engine.config import Config
from engine.errors import InvalidInput
from engine.media.images import read_image
from engine.models.facts import ModelFacts
from engine.models.loras import check_lora_files
from engine.models.published import published_names
from engine.models.single_files import check_single_files
from engine.request import GenerationRequest, Task
from parallel.degrees import Degrees
from parallel.placement import Placement


def preflight(
    config: Config,
    tasks: Sequence[Task],
    ranks: int | None,
    local_ranks: int | None = None,
    rank: int | None = None,
    nodes: int | None = None,
    elsewhere: bool = False,
) -> Placement:
    """Check a whole run without reading a weight or starting a process.

    Args:
        tasks: at least one; all are sampled alike and share their images.
        ranks: the world size, or None to derive it from ``config.parallel`` and the devices of this machine.
        local_ranks: how many of them run on this machine; all of them if None.
        rank: this process's rank; images and output folders are checked only where they will be read and written,
            since other machines may not have them. None, for a launcher, checks them as well.
        nodes: machines that the ranks are spread over; by default as many as take ``local_ranks`` each.
        elsewhere: on other machines than this one, so that its devices say nothing.

    Returns:
        The layout of the ranks, and why.

    Raises:
        InvalidInput: one sentence that names the value and what to do instead.
    """
    request = tasks[0].request
    facts = read_checked_facts(config, request.sampling, ranks)
    _check_family(request, facts)
    _check_guidance(request, facts)
    _check_images(request, facts)
    placement = lay_out(config, request.sampling, facts, ranks, nodes=nodes, local_ranks=local_ranks)
    degrees = placement.degrees
    _check_replicas(degrees, len(tasks))
    check_single_files(config, facts, degrees.replica_size)
    check_lora_files(config, facts)
    if rank is None or rank % degrees.replica_size == 0:
        if request.image:
            read_image(request.image, "--image")
        if request.last_image:
            read_image(request.last_image, "--last-image")
        for task in tasks:
            check_outputs(task.outputs, Path(config.model.path))
    # last, because these import torch
    _check_cache(config, request, facts)
    check_weights(config, facts)
    if not elsewhere:
        check_device(config, local_ranks if local_ranks is not None else degrees.world_size)
    return placement


def _check_cache(config: Config, request: GenerationRequest, facts: ModelFacts) -> None:
    from dicache.controller import Controller  # imports torch, which takes seconds
    from engine.denoise.guidance import all_lanes

    config = config.model_copy(update={"cache": choose_cache(config, request, facts).cache})
    lanes = all_lanes(len(request.prompts), facts.num_branches(request.sampling.guidance))
    steps, names = request.sampling.steps, published_names(facts, request)
    try:
        for span in _spans(config, request, facts):
            # allocates nothing yet
            controller = Controller(config.cache, lanes, steps, facts.num_layers, span, names, request.sampling.shift)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    if uses_calibration(config.cache, names):
        _check_calibration(config, request, facts)
    for signal in controller.step_signals:
        if signal not in ("latents", *facts.family.signals):
            raise InvalidInput(
                f"cache.signal is {signal}, which a {facts.family.name} model does not show: "
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

    from engine.components.samplers import load_scheduler_config, make_scheduler
    from engine.denoise.experts import split_steps

    scheduler = make_scheduler(load_scheduler_config(config), request.sampling, torch.device("cpu"))
    return split_steps(scheduler.timesteps, facts.boundary_timestep)


def _check_family(request: GenerationRequest, facts: ModelFacts) -> None:
    """Whether the models of this family can do what is asked for."""
    sampling, family = request.sampling, facts.family
    if sampling.scheduler not in family.schedulers:
        raise InvalidInput(
            f"sampling.scheduler is {sampling.scheduler}, with which {family.name} is not published: "
            f"use {' or '.join(family.schedulers)}."
        )
    if sampling.max_sequence_length > family.max_text_tokens:
        raise InvalidInput(
            f"sampling.max_sequence_length is {sampling.max_sequence_length}, but {family.name} takes at most "
            f"{family.max_text_tokens} text tokens: use {family.max_text_tokens}."
        )
    if facts.guidance_distilled and request.negative_prompt:
        raise InvalidInput(
            f"--negative-prompt is {request.negative_prompt!r}, but this model has its guidance distilled into the "
            "weights and never looks at one: leave it out."
        )
    for option, text in [("--prompt", p) for p in request.prompts] + [("--negative-prompt", request.negative_prompt)]:
        for word in family.reserved_words:
            if word in text:
                raise InvalidInput(f"{option} has {word} in it, which {family.name} reads as a picture: leave it out.")


def _check_guidance(request: GenerationRequest, facts: ModelFacts) -> None:
    first, second = request.sampling.guidance, request.sampling.low_noise_guidance
    if second is None:
        return
    if facts.boundary_timestep is None:
        raise InvalidInput(
            f"sampling.low_noise_guidance is {second:g}, but this model has no second transformer: leave it out."
        )
    if first <= 1 < second:
        raise InvalidInput(
            f"sampling.low_noise_guidance is {second:g}, but sampling.guidance is {first:g}, which leaves one branch "
            "for both transformers: use guidance above 1."
        )


def _check_images(request: GenerationRequest, facts: ModelFacts) -> None:
    """Whether the model can do with the images that are given, and without those that are not."""
    image, last, sampling = request.image, request.last_image, request.sampling
    if image is None:
        if facts.needs_image:
            raise InvalidInput(f"This model makes videos from images, but there is none: give {_wanted(facts)}.")
        return
    if facts.image_input == "none":
        raise InvalidInput(f"--image is {str(image)!r}, but this model takes text alone: leave it out.")
    if last is None and facts.clip_images == 2:
        raise InvalidInput(f"This model makes videos between two images, but there is one: give {_wanted(facts)}.")
    if last is not None:
        if facts.clip_images == 1 or facts.image_input == "first frame" or not facts.family.takes_last_image:
            raise InvalidInput(f"--last-image is {str(last)!r}, but this model takes a first one alone: leave it out.")
        if sampling.frames == 1:
            raise InvalidInput("sampling.frames is 1, which leaves no place for --last-image: ask for more frames.")
    if facts.clip_images and sampling.max_sequence_length != 512:
        raise InvalidInput(
            f"sampling.max_sequence_length is {sampling.max_sequence_length}, but this model tells its image tokens "
            "from 512 text tokens: use 512."
        )


def _wanted(facts: ModelFacts) -> str:
    return "--image and --last-image" if facts.clip_images == 2 else "--image"


def _check_replicas(degrees: Degrees, num_tasks: int) -> None:
    if degrees.data > num_tasks:
        raise InvalidInput(
            f"parallel.data is {degrees.data}, but there {'is' if num_tasks == 1 else 'are'} {num_tasks} "
            f"video{'' if num_tasks == 1 else 's'} to make, so some replicas would have nothing to do: give more "
            f"prompts or seeds, or use parallel.data={num_tasks} and cfg, ulysses or ring."
        )
