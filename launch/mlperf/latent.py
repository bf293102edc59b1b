"""The fixed latent that all videos begin with, from a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

_SLACK_BYTES = 2**20
"""Of a file beside its numbers, which take at most eight bytes each."""


def read_latent(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The noise of a file of torch.save (.pt, .pth) or numpy.save (.npy); nothing in it is executed.

    Args:
        shape: [channels, frames, height, width] of the latents; the file may have a batch of one before it.

    Returns:
        float32 [1, channels, frames, height, width], finite.

    Raises:
        InvalidInput: the file cannot be read, or holds something else; one sentence.
    """
    import torch

    wanted = " × ".join(map(str, shape))
    path = path.expanduser()
    if path.suffix.lower() not in (".pt", ".pth", ".npy"):
        raise InvalidInput(f"--latent is {str(path)!r}, but it must end in .pt, .pth or .npy: give such a file.")
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InvalidInput(f"--latent is {str(path)!r}, which is not an ordinary file: give a file.")
        if size > 8 * math.prod(shape) + _SLACK_BYTES:
            raise InvalidInput(
                f"--latent is {str(path)!r}, which has {size} bytes, more than a latent of {wanted} takes: give the "
                "file of this size of video."
            )
        content = _load(path)
    except InvalidInput:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged, or of another format"
        raise InvalidInput(f"--latent is {str(path)!r}, which cannot be read ({reason}): check the file.") from None
    if not isinstance(content, torch.Tensor) or not content.is_floating_point():
        what = content.dtype if isinstance(content, torch.Tensor) else type(content).__name__
        raise InvalidInput(f"--latent is {str(path)!r}, which holds {what}: give one tensor of floating-point numbers.")
    if tuple(content.shape) not in (shape, (1, *shape)):
        found = " × ".join(map(str, content.shape))
        raise InvalidInput(f"--latent is {str(path)!r} of shape {found}, but this size of video takes {wanted}.")
    latent = content.detach().to(torch.float32).reshape(1, *shape).contiguous()
    if not latent.isfinite().all():
        raise InvalidInput(f"--latent is {str(path)!r}, which holds numbers that are not finite: give another file.")
    return latent


def _load(path: Path) -> Any:
    """
    Raises:
        OSError, ValueError, RuntimeError: it cannot be read.
    """
    import numpy as np
    import torch

    if path.suffix.lower() == ".npy":
        array = np.load(path, allow_pickle=False)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch names no classes for what a damaged file makes it raise
        raise ValueError(str(error)) from None
