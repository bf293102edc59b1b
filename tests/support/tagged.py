"""Video files with a tag, made without a model having run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine.config import Config
from engine.generation.tag import Done, tag_text
from engine.media.video import write_video
from engine.request import GenerationRequest, make_request
from tests.support.small_model import PROMPT, tiny_config

DONE = Done(["warmup", "compute", "skip", "skip"], 0.6, "0123456789abcdef" * 4)


def tagged(
    path: Path,
    *overrides: str,
    prompt: str = PROMPT,
    config: Config | None = None,
    request: GenerationRequest | None = None,
    done: Done = DONE,
    change: Callable[[str], str] = lambda text: text,
) -> str:
    """Write a video of two frames with the tag of a request, and return the tag.

    Args:
        overrides: of the small model's configuration. change: what becomes of the tag before it is written.
    """
    config = config or tiny_config(*overrides)
    text = tag_text(config, request or make_request([prompt], "blurred", 7, config.sampling), done)
    assert text is not None
    with_comment(path, change(text))
    return text


def with_comment(path: Path, comment: str | None) -> None:
    """Write a video of two frames with any comment."""
    write_video([torch.full((2, 16, 16, 3), 128, dtype=torch.uint8)], path, 8, 16, 16, comment)


def put(text: str, value: Any, *keys: str) -> str:
    """JSON in which the value at these keys is another."""
    whole = json.loads(text)
    inner = whole
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return json.dumps(whole)
