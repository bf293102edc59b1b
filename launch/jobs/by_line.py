"""What sweeps, calibrations and benches have in common: a file of prompts, and requests that are made in one go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        prompts = read_prompts(self.prompts_file)
        return tasks_by_line(prompts, self.negative_prompt, config, outputs, self.image, self.last_image)


def tasks_by_line(
    prompts: Iterable[str],
    negative_prompt: str,
    config: Config,
    outputs: Outputs,
    image: Path | None = None,
    last_image: Path | None = None,
) -> list[Task]:
    """One for each prompt, whose place among them is its seed.

    Raises:
        InvalidInput: a prompt cannot be used.
    """
    return [
        task
        for seed, prompt in enumerate(prompts)
        for task in make_tasks([prompt], negative_prompt, [seed], config.sampling, outputs, image, last_image)
    ]


def without_outputs(requests: Iterable[GenerationRequest]) -> list[Task]:
    """The requests as tasks that write no files, for checks."""
    return [Task(request, Outputs()) for request in requests]


def images_of(requests: Sequence[GenerationRequest]) -> list[Path]:
    """The files of their first and last images."""
    each = [image for request in requests for image in (request.image, request.last_image)]
    return list(dict.fromkeys(image for image in each if image is not None))


def refuse_checkpoints(config: Config, why: str, where: str = "") -> None:
    """
    Args:
        why: there are none. where: what the key was read from, as it follows the value in the sentence.

    Raises:
        InvalidInput: ``checkpoint.every`` is above 0.
    """
    if config.checkpoint.every:
        raise InvalidInput(f"checkpoint.every is {config.checkpoint.every}{where}, but {why}: leave it out.")


def refuse_replicas(config: Config, why: str) -> None:
    """
    Args:
        why: what is done on all ranks together.

    Raises:
        InvalidInput: ``parallel.data`` is above 1.
    """
    if config.parallel.data > 1:
        raise InvalidInput(f"parallel.data is {config.parallel.data}, but {why}: use 1.")
