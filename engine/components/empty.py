"""Components without weights, to be filled or only to be compared with."""

from typing import Any

import accelerate
import torch


def empty_component(kind: Any, path: str, subfolder: str, dtype: torch.dtype) -> Any:
    """A ``kind`` of diffusers with parameters on the meta device, in the dtypes of
    ``kind.from_pretrained(dtype=dtype)``; its buffers are real."""
    with accelerate.init_empty_weights(include_buffers=False):
        component = kind.from_config(kind.load_config(path, subfolder=subfolder))
    kept = set(kind._keep_in_fp32_modules or ())
    for name, parameter in component.named_parameters():
        parameter.data = parameter.to(torch.float32 if kept & set(name.split(".")) else dtype)
    return component.requires_grad_(False)
