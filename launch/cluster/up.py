"""Starts the server of a gang, in a session of its own, and waits until it is ready or has failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from contextlib import ExitStack
from pathlib import Path

from engine.errors import InvalidInput
from engine.storage.private import create_private_file, make_private_folder
from launch.cluster.reply import listen
from launch.cluster.setup import Setup
from launch.process.printable import printable
from launch.process.signals import Interrupted, say
from launch.ranks.local import checkout_environment
from launch.ranks.rank import display

_ENDING_SECONDS = 30.0  # given to a server that is asked to end while it starts


def bring_up(setup: Setup, address: str | None, state: Path) -> int:
    """Start a server, and show its progress until it is ready. Returns the exit code.

    Args:
        setup: as it passed its checks before anything was known of the cluster.
        state: folder of the queue, and of the server's log.

    Raises:
        Interrupted: a signal came; the server has ended. InvalidInput: the folder cannot be written to.
    """
    log = _create_log(state / "logs")
    reading, writing = os.pipe()
    with log.open("ab") as output, os.fdopen(reading) as pipe:
        server = subprocess.Popen(
            [sys.executable, "-m", "launch.cluster", *_arguments(setup, address, state, log, writing)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C here does not reach it, and it outlives the terminal
            pass_fds=(writing,),
            env=os.environ | checkout_environment(),
        )
        os.close(writing)
        try:
            with ExitStack() as drawing:
                progress = display(sys.stderr, drawing, setup.ranks)
                for told in listen(pipe):
                    match told["kind"]:
                        case "stage":
                            progress.stage(told["name"])
                        case "note":
                            progress.note(told["line"])
                        case kind:
                            break
                else:
                    kind, told = "failed", {"message": f"The server ended without a word: see {log}.", "code": 1}
        except Interrupted:
            _end(server)
            raise
    if kind == "failed":
        server.wait()
        say(f"lockstep: {told['message']}")
        return int(told["code"])
    ranks = told["ranks"]
    print(printable(f"{told['name']} is ready: {ranks} rank{'s' if ranks > 1 else ''}, {told['model']}"))
    return 0


def _create_log(folder: Path) -> Path:
    log = folder / f"starting-{uuid.uuid4().hex[:8]}.log"  # the server gives it the gang's name
    try:
        make_private_folder(folder)
        create_private_file(log)
    except OSError as error:
        raise InvalidInput(
            f"The server of a gang cannot write its log into {folder} ({error.strerror}): choose another folder with "
            "--state."
        ) from None
    return log


def _arguments(setup: Setup, address: str | None, state: Path, log: Path, reply: int) -> list[str]:
    return [
        f"--state={state}",
        f"--log={log}",
        f"--reply={reply}",
        *([f"--ranks={setup.ranks}"] if setup.ranks is not None else []),
        *([f"--ray-address={address}"] if address else []),
        *(f"--set={override}" for override in setup.overrides),
        "--",
        setup.config,
    ]


def _end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(_ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
