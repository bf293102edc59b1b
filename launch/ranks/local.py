"""Local ranks through torch's elastic launcher: what `torchrun --standalone -m launch ...` does, and quieter."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from engine.execution.imports import import_ahead
from launch.process.failures import print_failure, root_cause
from launch.process.pausing import PauseRequest, order_pause
from launch.process.scratch import scratch_folder
from launch.process.signals import PARENT_PID, Interrupted
from launch.process.threads import count_cores
from launch.ranks.torchrun import escape_for_elastic
from launch.screens.console import restore_terminal

# long enough for a rank to die of SIGTERM, at whose default action ranks leave it; then SIGKILL
_SHUTDOWN_SECONDS = 2
_INSTALLED = ("site-packages", "dist-packages")


def start_ranks(ranks: int, grace_seconds: float = 0.0, arguments: Sequence[str] | None = None) -> int:
    """Run this program, with the arguments of this process, on that many processes of this machine, and wait for them.

    Args:
        grace_seconds: what SIGTERM leaves the ranks to pause; 0 ends them at once.
        arguments: of the program, in the place of those of this process.

    Returns:
        The exit code: 0, or that of the rank that failed first, whose error line has been printed.

    Raises:
        InvalidInput: no folder for temporary files can be written.
        Interrupted: by a signal; all ranks have ended.
    """
    import_ahead("torch.distributed.launcher.api")
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # elastic logs a failing rank as an error; we print our own line for it
    os.environ.update(_environment(ranks))
    given = escape_for_elastic(sys.argv[1:] if arguments is None else [*arguments])
    with scratch_folder() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=uuid.uuid4().hex,
            role="lockstep",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",  # a free port, held from the moment it is chosen
            local_addr="127.0.0.1",  # a machine need not be able to resolve its own name
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
            signals_to_handle=_elastic_signals(),
            shutdown_timeout=max(_SHUTDOWN_SECONDS, math.ceil(grace_seconds)),  # others may still write
        )
        limit_seconds = grace_seconds + _SHUTDOWN_SECONDS if grace_seconds else 0.0
        try:
            try:
                with PauseRequest(limit_seconds, lambda: order_pause(folder)) as request:
                    elastic_launch(config, sys.executable)("-m", "launch", *given)
            finally:
                restore_terminal()  # a rank that was killed could not
        except ChildFailedError as error:
            failure = root_cause(error.failures, folder)
            if request.asked and not failure.paused:  # it came too early or too late for a pause
                raise Interrupted(signal.SIGTERM) from None
            print_failure(failure)
            return failure.exit_code
        except SignalException as error:
            raise Interrupted(signal.Signals(error.sigval)) from None
    return 0


def _elastic_signals() -> str:
    """The signals whose handlers elastic may replace: SIGHUP alone, since the others have ours. Under nohup SIGHUP has
    to stay ignored, so there it is SIGUSR2, which is not sent."""
    return "SIGUSR2" if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else "SIGHUP"


def _environment(ranks: int) -> dict[str, str]:
    """What the ranks inherit beyond our own environment."""
    environment = {
        PARENT_PID: str(os.getpid()),
        # ranks that each use all cores slow one another down
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, count_cores() // ranks))),
    }
    return environment | checkout_environment()


def checkout_environment() -> dict[str, str]:
    """What Python needs to find us where we are run from a checkout, perhaps from another folder."""
    root = Path(__file__).resolve().parents[2]
    if root.name in _INSTALLED:
        return {}
    inherited = os.environ.get("PYTHONPATH")
    return {
        "PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else str(root),
        "PYTHONSAFEPATH": "1",  # a folder named engine/ where the user stands must not be taken for ours
    }
