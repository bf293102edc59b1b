"""A Ray that is started for one run, on this machine alone: its folder, its token, and the end of all its processes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray

from launch.gang.ray_private import MODE, set_token_mode
from launch.gang.token import TOKEN, Token, find_token
from launch.process.scratch import make_scratch_folder

_STORE_BYTES = 100 << 20  # nothing but plain data travels through it
_SOCKET_PATH_BYTES = 107  # the most that Linux takes
_INSIDE = "r"
_BELOW = "/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # Ray's longest name in its folder
_FAMILY = "LOCKSTEP_RAY_FOLDER"
_END_SECONDS = 5.0


def make_folder() -> Path:
    """A new folder for a Ray, whose name leaves room for the names of its sockets.

    Raises:
        InvalidInput: there is no place for one.
    """
    preferred = os.environ.get("RAY_TMPDIR")
    return make_scratch_folder([preferred] if preferred else [], _SOCKET_PATH_BYTES - len(_BELOW))


def start(folder: Path, ranks: int, **options: Any) -> Token | None:
    """Start Ray with all CPUs and GPUs of this machine, and connect to it.

    It wants a token, as Ray does by default. Where none is found, it is one for this Ray alone, in the environment of
    its processes: the one that Ray would write into the home folder would change how later clusters are started.

    Args:
        folder: of :func:`make_folder`.
        ranks: it gets at least as many CPUs, since ranks without a GPU take one each.
        options: of ``ray.init``.

    Returns:
        The token; None if the user has disabled it.

    Raises:
        InvalidInput: there is a token that cannot be read.
    """
    token = None
    if os.environ.get(MODE, "token").lower() == "token":
        token = find_token()
        if token is None:
            token = Token(secrets.token_hex(32), f"${TOKEN}")
            os.environ[TOKEN] = token.text
        set_token_mode("token")
    cpus = max(ranks, os.cpu_count() or 1)
    with _marking(folder):
        ray.init(
            "local",
            num_cpus=cpus,
            object_store_memory=_STORE_BYTES,
            include_dashboard=False,
            _temp_dir=str(folder / _INSIDE),  # Ray opens it to everybody, but not the one around it
            **options,
        )
    return token


@contextmanager
def _marking(folder: Path) -> Iterator[None]:
    # every process of this Ray inherits it, whatever its parent or session becomes
    os.environ[_FAMILY] = str(folder)
    try:
        yield
    finally:
        del os.environ[_FAMILY]


def end_processes(folder: Path) -> None:
    """Kill what ``ray.shutdown`` has left: it leaves agents and ranks behind where the raylet had died, and hangs where
    one is frozen."""
    left = []
    for process in psutil.process_iter():
        if process.pid != os.getpid() and _belongs(process, folder):
            with suppress(psutil.Error):
                process.kill()
                left.append(process)
    psutil.wait_procs(left, _END_SECONDS)


def _belongs(process: psutil.Process, folder: Path) -> bool:
    # agents and ranks write their names over their environment, but have log files open
    with suppress(psutil.Error):
        if process.environ().get(_FAMILY) == str(folder):
            return True
        return any(Path(file.path).is_relative_to(folder) for file in process.open_files())
    return False
