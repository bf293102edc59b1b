"""What a user asks for: requests, and the output files of each. Validated when they are made, and immutable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engine.config import SamplingConfig
from engine.errors import InvalidInput, first_problem
from engine.storage.files import numbered

MOST_LETTERS = 100_000
"""Of a prompt: no encoder reads as many, and a file that is given by mistake is refused before it fills logs."""
MOST_BYTES = 256 * 2**20
"""Of a file of prompts."""


class GenerationRequest(BaseModel):
    """One or more prompts, each of which becomes one video; the noise of all is drawn from one generator.

    The noise is float32 [samples, channels, frames, height, width] of ``torch.Generator("cpu").manual_seed(seed)``, as
    a diffusers pipeline draws it: a seed gives the same noise on every device and number of ranks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompts: tuple[str, ...] = Field(min_length=1, description="What to show; one video each.")
    negative_prompt: str = Field("", description="What to keep away from; used where guidance is above 1.")
    seed: int = Field(0, ge=0, lt=2**63, description="torch.Generator takes no more than 63 bits.")
    image: Path | None = Field(None, description="File of the first frame, which the videos of all prompts share.")
    last_image: Path | None = Field(None, description="File of the last frame; only with a first.")
    sampling: SamplingConfig

    @field_validator("prompts", "negative_prompt")
    @classmethod
    def _not_endless(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for text in (value,) if isinstance(value, str) else value:
            if len(text) > MOST_LETTERS:
                option = "--negative-prompt" if isinstance(value, str) else "--prompt"
                raise ValueError(
                    f"{option} {text[:40]!r}… has {len(text)} letters, and {MOST_LETTERS} are the most: shorten it."
                )
        return value

    @field_validator("prompts")
    @classmethod
    def _not_blank(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        for prompt in prompts:
            if not prompt.strip():
                raise ValueError(f"--prompt is {prompt[:100]!r}, which is empty: say what the video should show.")
        return prompts

    @model_validator(mode="after")
    def _first_before_last(self) -> Self:
        if self.last_image is not None and self.image is None:
            raise ValueError(
                f"--last-image is {str(self.last_image)!r}, but there is no first: give that with --image."
            )
        return self

    @field_validator("prompts", "negative_prompt")
    @classmethod
    def _is_text(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        # bytes of the command line that are not UTF-8 arrive as lone surrogates, and no tokenizer takes them
        for text in (value,) if isinstance(value, str) else value:
            if not text.isprintable() and any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
                raise ValueError(f"{text[:100]!r} is not text in UTF-8: type it again.")
        return value


def make_request(
    prompts: Sequence[str],
    negative_prompt: str,
    seed: int,
    sampling: SamplingConfig,
    image: Path | None = None,
    last_image: Path | None = None,
) -> GenerationRequest:
    """Build a request from what a user typed.

    Raises:
        InvalidInput: one sentence that names the option.
    """
    if not prompts:
        raise InvalidInput("There is no prompt: say what the video should show with --prompt.")
    try:
        return GenerationRequest(
            prompts=tuple(prompts),
            negative_prompt=negative_prompt,
            seed=seed,
            image=image,
            last_image=last_image,
            sampling=sampling,
        )
    except ValidationError as error:
        key, problem = first_problem(error)
        option = {"prompts": "--prompt", "negative_prompt": "--negative-prompt", "seed": "--seed"}
        name = key.split(".")[0]
        raise InvalidInput(f"{problem.replace(name, option.get(name, name), 1)}.") from None


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts in a UTF-8 text file, one on each line; blank lines are skipped.

    Raises:
        InvalidInput: the file cannot be read, or holds no prompt.
    """
    try:
        with path.expanduser().open("rb") as stream:  # a pipe, too, and a device that never ends
            content = stream.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InvalidInput(
                f"--prompts is {str(path)!r}, which has more than {MOST_BYTES // 2**20} MB: give a file of prompts."
            )
        lines = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except UnicodeDecodeError:
        raise InvalidInput(f"--prompts is {str(path)!r}, which is not text in UTF-8: save it as UTF-8.") from None
    except InvalidInput:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: "~" of an unknown user
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"--prompts is {str(path)!r}, which cannot be read ({reason}): check the path.") from None
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise InvalidInput(f"--prompts is {str(path)!r}, which holds no prompt: write one on each line.")
    return prompts


@dataclass(frozen=True)
class Outputs:
    """Files of a request's video, run report and latents; None for one that is not written."""

    video: Path | None = None
    report: Path | None = None
    latents: Path | None = None
    checkpoint: Path | None = None  # folder of checkpoints, from which an interrupted run is resumed
    replaces: bool = True  # an older video and report; else a number is added to their names
    fallback: Path | None = None  # the same on another disk, for where the first takes no files

    @property
    def written(self) -> list[Path]:
        """The files that are the request's results."""
        return [path for path in (self.video, self.report, self.latents) if path is not None]

    @property
    def checkpoints(self) -> list[Path]:
        """The folders of checkpoints, in the order in which they are tried."""
        return [path for path in (self.checkpoint, self.fallback) if path is not None]

    def numbered(self, count: int) -> list[Outputs]:
        """The outputs of ``count`` videos: out.mp4 becomes out-0.mp4, out-1.mp4 and so on, unless there is only one."""
        paths = (self.video, self.report, self.latents)
        columns: list[Sequence[Path | None]] = [numbered(path, count) if path else [None] * count for path in paths]
        for folder in (self.checkpoint, self.fallback):
            columns.append([folder / f"video-{i}" if folder else None for i in range(count)])
        names = ("video", "report", "latents", "checkpoint", "fallback")
        return [replace(self, **dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Task:
    """One request and its output files."""

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
    """One task for each prompt and seed, prompts in order and seeds in order within each; all share the images.

    Each task is a request of its own, so a video does not depend on the other prompts and seeds.

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
