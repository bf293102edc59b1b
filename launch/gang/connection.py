"""The driver's connection to Ray: to an existing cluster, or to one that is started for the run."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from types import FrameType
from typing import Any

import ray

from engine.errors import InvalidInput, sentence
from launch.gang.address import check_address, check_listening
from launch.process.signals import ENDING, Interrupted

_STORE_BYTES = 100 << 20  # nothing but plain data travels through it


@contextmanager
def connection(address: str | None, ranks: int) -> Iterator[None]:
    """Connect as :func:`connected` does, and raise when a signal comes.

    Raises:
        InvalidInput: there is no such cluster.
        Interrupted: SIGINT, SIGTERM or SIGQUIT came.
    """
    with _interruptible() as handle, connected(address, ranks):
        for signum in ENDING:
            signal.signal(signum, handle)
        yield


@contextmanager
def connected(address: str | None, ranks: int) -> Iterator[None]:
    """Connect to the cluster at ``address``, else at $RAY_ADDRESS, else start Ray on this machine alone, with all its
    CPUs and GPUs, and end it afterwards.

    Inside, Ray has replaced the handlers of signals, and sys.stdout and sys.stderr lead nowhere: whoever prints
    meanwhile has to have kept the stream from before.

    Args:
        ranks: a Ray that is started here gets at least as many CPUs, since ranks without a GPU take one each.

    Raises:
        InvalidInput: there is no such cluster.
        Interrupted: SIGTERM came while Ray was starting.
    """
    address = check_address(address)
    if address:
        check_listening(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with ExitStack() as closing:
        # what ranks print goes to Ray's log files; what Ray itself prints here, about a rank that died for instance,
        # would be mixed with our lines, and no setting of Ray stops that
        nowhere = closing.enter_context(open(os.devnull, "w"))
        closing.enter_context(redirect_stdout(nowhere))
        closing.enter_context(redirect_stderr(nowhere))
        closing.callback(ray.shutdown)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        try:
            if address:
                ray.init(address, **quiet)
            else:
                cpus = max(ranks, os.cpu_count() or 1)
                ray.init("local", num_cpus=cpus, object_store_memory=_STORE_BYTES, include_dashboard=False, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            where = f"There is no Ray cluster at {address}" if address else "Ray cannot be started on this machine"
            advice = "check --ray-address" if address else "see its logs in /tmp/ray"
            reason = sentence(error).rstrip(".")
            raise InvalidInput(f"{where} ({reason[:300]}): {advice}.") from None
        except SystemExit:  # Ray's own handler, which it has put in place by now
            raise Interrupted(signal.SIGTERM) from None
        yield


@contextmanager
def _interruptible() -> Iterator[Callable[[int, FrameType | None], None]]:
    """Raise `Interrupted` when a signal comes, also while Ray waits, which lets no exception but KeyboardInterrupt
    through. Yields the handler of signals for that."""
    pending: list[int] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        if not pending:  # a second signal must not interrupt the clean-up
            pending.append(signum)
            raise KeyboardInterrupt

    handlers = {signum: signal.signal(signum, handle) for signum in ENDING}
    try:
        yield handle
    except KeyboardInterrupt:
        raise Interrupted(pending[0] if pending else signal.SIGINT) from None
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def count_gpus() -> int:
    """GPUs of all nodes of the cluster."""
    return int(ray.cluster_resources().get("GPU", 0))
