"""`make demo`: the first video, on what this machine has.

Two ranks show most: that they agree. On a machine with one CUDA device, though, one rank draws on it: two cannot share
it, and whoever has a card wants to see it at work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from launch.process.signals import say

PROMPT = "a red circle moving right on a navy background"


def arguments(cuda_devices: int, given: Sequence[str] = ()) -> list[str]:
    """The command line of the demo.

    Args:
        cuda_devices: that torch finds; without any, ranks are on the CPU.
        given: more options, which count where they repeat one of ours.
    """
    ranks = 1 if cuda_devices == 1 else 2
    own = [f"--ranks={ranks}", f"--prompt={PROMPT}", "--output=outputs/demo.mp4"]
    return ["generate", "configs/tiny-wan.yaml", *own, *given]


def main() -> None:
    """Say what is drawn on, and become the command."""
    import torch

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    command = arguments(devices, sys.argv[1:])
    if devices == 1 and len(sys.argv) == 1:
        say(
            f"one CUDA device here ({torch.cuda.get_device_name(0)}), so one rank draws on it; two ranks on the CPU: "
            'make demo DEMO="--ranks 2 --set runtime.device=cpu"'
        )
    os.execv(sys.executable, [sys.executable, "-m", "launch", *command])


if __name__ == "__main__":
    main()
