"""From what was typed to a job that is known to make sense."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from engine.config import Config, load_config
from engine.preflight import Outputs, preflight
from engine.request import GenerationRequest, make_request
from launch.options import Options
from parallel.degrees import Degrees


@dataclass(frozen=True)
class Job:
    """A request that has passed every check, and the ranks that will run it."""

    config: Config
    request: GenerationRequest
    outputs: Outputs
    degrees: Degrees


def prepare(options: Options, ranks: int | None, local_ranks: int | None = None, writes: bool = True) -> Job:
    """Check everything that can be checked before weights load or processes start.

    Args:
        ranks: the world size, or None for what the configured degrees multiply to.
        local_ranks: how many of them run on this machine; all if None.
        writes: whether this process will write the files; other machines may not have their folders.

    Raises:
        InvalidInput: one sentence on what is wrong.
    """
    config = load_config(options.config, options.overrides)
    request = make_request(options.prompts, options.negative_prompt, options.seed, config.sampling)
    latents = _plain(options.latents) if options.latents else None
    outputs = Outputs(_plain(options.video_path), _plain(options.report_path), latents) if writes else Outputs()
    degrees = preflight(config, request, ranks, outputs, local_ranks)
    return Job(config, request, outputs, degrees)


def _plain(path: Path) -> Path:
    """The path without "..": through a folder that does not exist yet it would be checked elsewhere than written."""
    return Path(os.path.normpath(path))
