"""Whether the models of a family, and this model among them, can do what a request asks for."""

from __future__ import annotations

from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.request import GenerationRequest


def check_request(request: GenerationRequest, facts: ModelFacts) -> None:
    """Refuse a request that the model cannot do, whatever the number of ranks; opens no file.

    Raises:
        InvalidInput: one sentence that names the value and what to do instead.
    """
    _check_family(request, facts)
    _check_guidance(request, facts)
    _check_images(request, facts)


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
