"""Keeps the weights of the transformer in use on the device, where a model has two."""

from collections.abc import Sequence

import torch
from torch import nn

# The rest is for activations and the cache, which at 720p and 81 frames take tens of gigabytes on one GPU. Moving 28 GB
# of weights costs seconds in a video's many minutes, so the limit is low.
SHARE_FOR_WEIGHTS = 0.5


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether that many bytes of weights may stay on ``device`` together; always on the CPU."""
    if device.type == "cpu":
        return True
    return num_bytes <= SHARE_FOR_WEIGHTS * torch.cuda.get_device_properties(device).total_memory


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensors in (module.parameters(), module.buffers()) for tensor in tensors)


class Residency:
    """Keeps the transformer in use on the device, and the others in the host's memory unless all of them fit."""

    def __init__(self, transformers: Sequence[nn.Module], device: torch.device, together: bool) -> None:
        """
        Args:
            together: all of them stay on the device.
        """
        self._transformers = transformers
        self._device = device
        self._together = together

    def use(self, number: int) -> None:
        """Move a transformer to the device. The others are moved away first, so that two are never there at once."""
        if self._together:
            return
        for other in (*self._transformers[:number], *self._transformers[number + 1 :]):
            other.to("cpu")
        self._transformers[number].to(self._device)
