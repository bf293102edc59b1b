"""Loads components from the files of a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError

from engine.components.dequantising import is_in_fp8, load_dequantised
from engine.errors import RankFailure
from engine.models.weights import weight_variant


def load_component(load: Any, path: str, **options: Any) -> Any:
    """Call a ``from_pretrained`` with files of this machine alone.

    Raises:
        RankFailure: a file cannot be loaded; one sentence.
    """
    with loading(options.get("subfolder", "text encoder"), path):
        return load(path, local_files_only=True, **options)


def load_module(kind: Any, path: str, component: str, dtype: torch.dtype) -> Any:
    """A component from its folder: a ``kind``, a class of diffusers or transformers, in evaluation mode on the CPU.

    Raises:
        RankFailure: a file cannot be loaded; one sentence.
    """
    if is_in_fp8(path, component):
        with loading(component, path):
            return load_dequantised(kind, path, component, dtype).eval()
    variant = weight_variant(path, component)
    return load_component(kind.from_pretrained, path, subfolder=component, variant=variant, dtype=dtype).eval()


@contextmanager
def loading(part: str, path: str, advice: str = "check the model folder") -> Iterator[None]:
    """Inside, errors about the files of a part of the model become one sentence.

    Raises:
        RankFailure: a file cannot be loaded; it ends with ``advice``.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RankFailure(f"The {part} of {path} cannot be loaded ({reason}): {advice}.") from error
