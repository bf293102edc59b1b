"""Signs that a part of a model gets on while it computes.

One tile of a VAE, or a whole video that is decoded at once, may take longer than ranks wait for a rank that shows
nothing. Each layer that has run is a sign.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_PERIOD_SECONDS = 0.5
_CALLS_BETWEEN_MARKS, _MARKS_AHEAD = 8, 2


class SignsOfLife:
    """Tells somebody whenever a layer has run, at most twice a second."""

    def __init__(self, tell: Callable[[], None], device: torch.device) -> None:
        """
        Args:
            tell: called in the thread that computes.
            device: on which the layers run. A GPU is kept close behind: else all of a video could be launched within a
                second, and nothing be seen of it for minutes.
        """
        self._tell = tell
        self._device = device
        self._told = time.monotonic()
        self._calls = 0
        self._marks: deque[torch.cuda.Event] = deque()

    def watch(self, module: nn.Module) -> None:
        """From now on each layer of a module is a sign when it has run."""
        for part in module.modules():
            part.register_forward_hook(self._has_run)

    def _has_run(self, *_: Any) -> None:
        if self._device.type == "cuda":
            self._keep_pace()
        now = time.monotonic()
        if now - self._told >= _PERIOD_SECONDS:
            self._told = now
            self._tell()

    def _keep_pace(self) -> None:
        """Wait until the GPU has finished all but the last few layers."""
        self._calls += 1
        if self._calls % _CALLS_BETWEEN_MARKS:
            return
        mark = torch.cuda.Event(blocking=True)
        mark.record(torch.cuda.current_stream(self._device))
        self._marks.append(mark)
        if len(self._marks) > _MARKS_AHEAD:
            self._marks.popleft().synchronize()
