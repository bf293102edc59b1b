"""Components without weights: to be loaded into, or to compare the names and shapes of tensors with."""

from typing import Any

import accelerate
import torch

from parallel.diffusers_private import kept_in_float32


def empty_component(kind: Any, path: str, subfolder: str, dtype: torch.dtype) -> Any:
    """A diffusers ``kind`` with parameters on the meta device, in the dtypes of ``kind.from_pretrained(dtype=dtype)``.
    Its buffers have their values.

    Raises:
        OSError, ValueError: its configuration file cannot be read.
    """
    with accelerate.init_empty_weights(include_buffers=False):
        component = kind.from_config(kind.load_config(path, subfolder=subfolder))
    kept = set(kept_in_float32(kind))
    for name, parameter in component.named_parameters():
        parameter.data = parameter.to(torch.float32 if kept & set(name.split(".")) else dtype)
    return component.requires_grad_(False)
