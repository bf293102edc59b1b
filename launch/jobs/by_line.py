"""What a sweep and a calibration have in common: a file of prompts, and one video after another on all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import Config
from engine.errors import InvalidInput
from engine.request import GenerationRequest, Outputs, Task, make_tasks, read_prompts


@dataclass(frozen=True)
class LineOptions:
    """The arguments of a sweep or a calibration, without the number of ranks."""

    config: str
    prompts_file: Path
    output: Path
    overrides: Sequence[str] = ()
    negative_prompt: str = ""
    image: Path | None = None
    last_image: Path | None = None

    def tasks(self, config: Config, outputs: Outputs) -> list[Task]:
        """One for each line of the file, whose place there is its seed.

        Raises:
            InvalidInput: the file cannot be read, or a prompt cannot be used.
        """
        images = (self.image, self.last_image)
        return [
            task
            for seed, prompt in enumerate(read_prompts(self.prompts_file))
            for task in make_tasks([prompt], self.negative_prompt, [seed], config.sampling, outputs, *images)
        ]


def images_of(requests: Sequence[GenerationRequest]) -> list[Path]:
    """The files of their first and last images."""
    each = [image for request in requests for image in (request.image, request.last_image)]
    return list(dict.fromkeys(image for image in each if image is not None))


def refuse_replicas(config: Config, why: str) -> None:
    """
    Args:
        why: what is done on all ranks together.

    Raises:
        InvalidInput: ``parallel.data`` is above 1.
    """
    if config.parallel.data > 1:
        raise InvalidInput(f"parallel.data is {config.parallel.data}, but {why}: use 1.")
