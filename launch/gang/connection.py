"""The driver's connection to Ray: to an existing cluster, or to one that is started for the run."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import ray
from ray.exceptions import RayError

from engine.errors import InvalidInput, sentence
from launch.gang import own_ray
from launch.gang.address import AUTO, Address, check_address
from launch.gang.head import find_head
from launch.gang.logs import RayLogs
from launch.gang.ray_private import address_on_this_machine, read_environment_again, set_token_mode
from launch.gang.token import Token
from launch.gang.watch import RayWatch
from launch.process.bounded import within
from launch.process.quiet import output_to_file
from launch.process.signals import ENDING, Interrupted

_RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
_LONGER_SECONDS = 60  # Ray ends the process so long after the watch has noticed that the head is gone
_SHUTDOWN_SECONDS = 10.0
_LOST_SECONDS = 2.0  # it hangs where the head is gone
_SET_HERE = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", _RECONNECT)


@dataclass(frozen=True)
class RayConnection:
    """What a driver has while it is connected."""

    watch: RayWatch
    logs: RayLogs
    stdout: IO[str]
    """What a person sees; sys.stdout may lead to the log."""
    stderr: IO[str]
    address: str | None
    """HOST:PORT of the cluster; None if Ray was started for this driver."""


@contextmanager
def connection(address: str | None, ranks: int, head_timeout_seconds: float) -> Iterator[RayConnection]:
    """Connect as :func:`connected` does, and raise when a signal comes.

    Raises:
        InvalidInput: there is no such cluster.
        Interrupted: SIGINT, SIGTERM or SIGQUIT came.
    """
    with _interruptible() as handle, connected(address, ranks, head_timeout_seconds) as connection:
        for signum in ENDING:
            signal.signal(signum, handle)
        yield connection


@contextmanager
def connected(
    address: str | None, ranks: int, head_timeout_seconds: float, log: Path | None = None
) -> Iterator[RayConnection]:
    """Connect to the cluster at ``address``, else at $RAY_ADDRESS, else start Ray on this machine alone, with all its
    CPUs and GPUs, and end it afterwards. Both ends take a bounded time.

    Inside, Ray has replaced the handlers of signals, and stdout and stderr of this process go to a file, unless
    LOCKSTEP_TRACEBACK is set: whoever prints meanwhile takes the streams of the connection.

    Args:
        ranks: a Ray that is started here gets at least as many CPUs, since ranks without a GPU take one each.
        head_timeout_seconds: how long the cluster's head may be silent.
        log: the file for what Ray prints; by default a temporary one, which stays only if something fails.

    Raises:
        InvalidInput: there is no such cluster, or it does not take our token, or is of another version.
        Interrupted: SIGTERM came while Ray was starting.
    """
    address = check_address(address)
    with ExitStack() as closing:
        closing.callback(_set_environment, {name: os.environ.get(name) for name in _SET_HERE})
        logs = RayLogs.begin(own_ray.make_folder() if address is None else None, log)
        closing.callback(logs.end)
        stdout, stderr = sys.stdout, sys.stderr
        if logs.file:
            stdout, stderr = closing.enter_context(output_to_file(logs.file))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault(_RECONNECT, str(int(head_timeout_seconds) + _LONGER_SECONDS))
        level = logging.CRITICAL if logs.file else logging.INFO
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": level}
        token: Token | None = None
        if address is None:
            assert logs.folder is not None, "a Ray of our own has one"
            closing.callback(own_ray.end_processes, logs.folder)
            with _starting("Ray cannot be started on this machine", logs):
                token = own_ray.start(logs.folder, ranks, **quiet)
        else:
            head = find_head(_resolve(address))
            address, token = str(head.address), head.token
            set_token_mode("token" if token else "disabled")
            with _starting(f"The Ray cluster at {address} cannot be used", logs):
                ray.init(address, **quiet)
        with ExitStack() as failing:
            failing.callback(_shut_down, _SHUTDOWN_SECONDS)
            watch = RayWatch.begin(token, address is None, head_timeout_seconds)
            failing.pop_all()
        closing.callback(lambda: _shut_down(_LOST_SECONDS if watch.is_lost else _SHUTDOWN_SECONDS))
        closing.callback(watch.stop)
        yield RayConnection(watch, logs, stdout, stderr, address)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _resolve(address: str) -> Address:
    if address != AUTO:
        return Address.parse(address)
    found = address_on_this_machine()
    if found is None:
        raise InvalidInput(
            "There is no Ray cluster on this machine, which the address auto asks for: start one with "
            "`ray start --head`, or give HOST:PORT."
        )
    return Address.parse(found)


@contextmanager
def _starting(failed: str, logs: RayLogs) -> Iterator[None]:
    """Put what Ray raises when it starts or connects into a sentence.

    Args:
        failed: how the sentence begins.
    """
    try:
        read_environment_again()
        yield
    except BaseException as error:
        _shut_down(_SHUTDOWN_SECONDS)
        if isinstance(error, SystemExit):  # of Ray's own handler, which it has put in place by now
            raise Interrupted(signal.SIGTERM) from None
        if not isinstance(error, OSError | RuntimeError | ValueError | RayError):
            raise
        logs.keep = True
        reason = sentence(error).rstrip(".")
        raise InvalidInput(f"{failed} ({reason[:300]}).{logs.in_words}") from None


def _shut_down(seconds: float) -> None:
    """Disconnect, and end a Ray that was started here: in bounded time, and whatever it raises."""
    with suppress(Exception):
        within(seconds, ray.shutdown)


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
