"""What of a request and a model's settings has no effect: said in a line each, instead of being ignored silently."""

from __future__ import annotations

from engine.config import Config
from engine.models.facts import ModelFacts
from engine.models.samplers import sampler_notes
from engine.request import GenerationRequest


def request_notes(config: Config, request: GenerationRequest, facts: ModelFacts) -> list[str]:
    """The lines on a request that has passed the checks, but for those on its images and on the tokens of its texts
    (:func:`image_notes`, :meth:`engine.components.parts.PromptEncoder.notes`)."""
    said = sampler_notes(config.model.path, request.sampling.scheduler, facts.family.name)
    guidance = request.sampling.guidance
    if request.negative_prompt.strip() and facts.num_branches(guidance) == 1:
        said.append(f"--negative-prompt has no effect: sampling.guidance is {guidance:g}, and 1 or less looks at none")
    return said


def image_notes(request: GenerationRequest) -> list[str]:
    """A line for whatever the request's image files hold and is not followed.

    Raises:
        InvalidInput: one of them cannot be read.
    """
    said: list[str] = []
    for option, path in (("--image", request.image), ("--last-image", request.last_image)):
        if path is not None:
            from engine.media.images import read_image  # imports numpy

            read_image(path, option, request.sampling.background, said.append)
    return said
