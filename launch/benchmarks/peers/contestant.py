"""What every method under test can do, whatever library it is from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from launch.benchmarks.peers.counting import Work


class BrokenOff(Exception):
    """A video was broken off on purpose."""


@dataclass(frozen=True)
class Made:
    """One video before it is decoded."""

    latents: Tensor
    """float32 [1, channels, frames, height, width], in the pipeline's normalised space."""
    seconds: float
    """From embedded prompts to these latents; without encoding and decoding."""
    work: Work


class Contestant(Protocol):
    """One method."""

    def set_up(self, setting: Mapping[str, Any]) -> None:
        """Start anew with these settings: nothing is left of earlier videos.

        Raises:
            Exception: whatever the library raises if it does not take the setting or the model.
        """
        ...

    def make(self, number: int, break_off: bool = False) -> Made:
        """Make the video of a prompt, as a second call in the same process would: what the library keeps is kept.

        Args:
            number: of the prompt, which is its seed as well.
            break_off: stop after about half of the denoise steps.

        Raises:
            BrokenOff: as asked for.
            Exception: whatever the library raises.
        """
        ...
