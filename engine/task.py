"""A list of videos to make: each has its own request and its own files, whatever replica makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import SamplingConfig
from engine.files import numbered
from engine.request import GenerationRequest, make_request


@dataclass(frozen=True)
class Outputs:
    """Files that a request's video, run report and latents go to; None for one that nobody asked for."""

    video: Path | None = None
    report: Path | None = None
    latents: Path | None = None
    checkpoint: Path | None = None  # folder of what it takes to go on, should the run break off

    def numbered(self, count: int) -> list[Outputs]:
        """Outputs of that many videos: out.mp4 becomes out-0.mp4, out-1.mp4 and so on, unless there is only one."""
        paths = (self.video, self.report, self.latents)
        columns = [numbered(path, count) if path else [None] * count for path in paths]
        folders = [self.checkpoint / f"video-{i}" if self.checkpoint else None for i in range(count)]
        return [Outputs(*row) for row in zip(*columns, folders, strict=True)]


@dataclass(frozen=True)
class Task:
    """One video to make."""

    request: GenerationRequest
    outputs: Outputs


def make_tasks(
    prompts: Sequence[str],
    negative_prompt: str,
    seeds: Sequence[int],
    sampling: SamplingConfig,
    outputs: Outputs,
    image: Path | None = None,
    last_image: Path | None = None,
) -> list[Task]:
    """Every prompt with every seed, prompts in order and seeds in order within each; all share the images.

    Each task is a request of its own, so a video does not depend on what else is on the list.

    Raises:
        InvalidInput: one sentence that names the option.
    """
    requests = [
        make_request([prompt], negative_prompt, seed, sampling, image, last_image)
        for prompt in prompts
        for seed in seeds
    ]
    if not requests:
        make_request((), negative_prompt, 0, sampling)  # says which option is missing
    return [Task(*pair) for pair in zip(requests, outputs.numbered(len(requests)), strict=True)]
