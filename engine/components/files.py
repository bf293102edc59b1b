"""How components come from the files of a checkpoint, and how they leave the device again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import accelerate
import torch
from safetensors import SafetensorError
from torch import nn

from engine.errors import RankFailure


def load_component(load: Any, path: str, **options: Any) -> Any:
    """Call a ``from_pretrained``, turning what it raises about the files into one sentence."""
    with loading(options.get("subfolder", "text encoder"), path):
        return load(path, local_files_only=True, **options)


@contextmanager
def loading(part: str, path: str, advice: str = "check the model folder") -> Iterator[None]:
    """Turn what is raised about the files of a part of the model into one sentence."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RankFailure(f"The {part} of {path} cannot be loaded ({reason}): {advice}.") from error


@contextmanager
def on_device(device: torch.device, module: nn.Module) -> Iterator[None]:
    """Have ``module`` on ``device`` inside the block and on the CPU afterwards."""
    if device.type == "cpu":
        yield
        return
    _, hook = accelerate.cpu_offload_with_hook(module, device)
    try:
        yield
    finally:
        hook.offload()
        hook.remove()
