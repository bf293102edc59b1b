"""The arguments of `lockstep bench CONFIG`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from engine.request import Outputs, Task, read_prompts
from launch.jobs.by_line import tasks_by_line
from launch.jobs.config import JobConfig

ROUNDS, WARMUP = 5, 1
# the small model that ships draws these; for another model any words cost the same
_PROMPTS = (
    "a red circle moving right on a navy background",
    "a green square moving up on a gray background",
    "a blue triangle moving left on a white background",
    "a yellow circle moving down on a navy background",
)


@dataclass(frozen=True)
class BenchOptions:
    """The arguments of `lockstep bench CONFIG`, without the number of ranks."""

    config: str
    output: Path
    prompts_file: Path | None = None
    rounds: int = ROUNDS
    warmup: int = WARMUP
    against: str | None = None
    against_build: Path | None = None
    trace: bool = False
    keep_videos: bool = False
    overrides: Sequence[str] = ()
    negative_prompt: str = ""
    image: Path | None = None
    last_image: Path | None = None
    led: bool = False
    """Another build says when to do what, so that the configuration as given is the only variant."""

    def tasks(self, config: JobConfig) -> list[Task]:
        """One for each line of the file of prompts, whose place there is its seed; without a file one for each replica.

        Raises:
            InvalidInput: the file cannot be read, or a prompt cannot be used.
        """
        prompts = (
            read_prompts(self.prompts_file) if self.prompts_file else islice(cycle(_PROMPTS), config.parallel.data)
        )
        return tasks_by_line(prompts, self.negative_prompt, config, Outputs(), self.image, self.last_image)

    def of_other_build(self, config: JobConfig) -> list[str]:
        """The arguments with which another build measures the same, without those for its files.

        Args:
            config: the configuration, with its layout chosen.
        """
        given = ["bench", self.config, f"--ranks={config.parallel.degrees.world_size}"]
        given += [f"--rounds={self.rounds}", f"--warmup={self.warmup}", f"--negative-prompt={self.negative_prompt}"]
        given += [f"--image={self.image}"] if self.image is not None else []
        given += [f"--last-image={self.last_image}"] if self.last_image is not None else []
        return [*given, *(f"--set={override}" for override in self.overrides)]
