"""A run of the small model that kills itself: started by :mod:`launch.check.lines.resume`, with an order on stdin."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from launch.check.video import loaded, request_of
from launch.jobs.config import JobConfig
from launch.process.quiet import quiet_libraries


def main() -> None:
    """Denoise, with checkpoints, until SIGKILL in the middle of the step that the order names."""
    quiet_libraries()
    order = json.load(sys.stdin)
    config = JobConfig.model_validate_json(order["config"])

    def on_velocity(step: Any, branches: Any) -> None:
        if step.index == order["step"]:
            os.kill(os.getpid(), signal.SIGKILL)

    with loaded(config) as engine:
        engine.generate(request_of(config), checkpoint=Path(order["folder"]), on_velocity=on_velocity)


if __name__ == "__main__":
    main()
