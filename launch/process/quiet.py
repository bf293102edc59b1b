"""Keep what libraries print off the terminal, except errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TextIO

from launch.process.signals import PARENT_PID

# read by the libraries when they are imported, so this has to come first; what the user has set stays
_ENVIRONMENT = {
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LOG_LEVEL": "error",  # xfuser
    "PYTHONWARNINGS": "ignore",  # of processes that libraries start, such as multiprocessing's resource tracker
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}

_TRACEBACK = "LOCKSTEP_TRACEBACK"


def quiet_libraries() -> None:
    """Silence everything below ERROR, here and in the processes that this one starts. Before heavy imports."""
    if "TORCHELASTIC_RUN_ID" in os.environ and PARENT_PID not in os.environ and not os.environ.get(_TRACEBACK):
        # torchrun leaves stderr to its ranks: what C++ logs when a rank is lost would bury the line that says why
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def own_streams(closing: ExitStack) -> tuple[IO[str], IO[str]]:
    """Redirect stdout and stderr of this process, so that what libraries write to them does not reach the terminal.

    gloo reports its connections on stdout from C++, where no log level reaches. Under our own launcher stderr
    goes to a file beside elastic's error file, from which the launcher quotes the last line of a rank that was killed.

    Returns:
        Streams that still write to the original stdout and stderr.
    """
    stdout = _take(sys.stdout, os.devnull, closing)
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file and PARENT_PID in os.environ:
        return stdout, _take(sys.stderr, Path(file).with_name("stderr.log"), closing)
    return stdout, sys.stderr


@contextmanager
def output_to_file(file: str | Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """Inside, what any library writes to stdout or stderr goes to the file, also from C++ and from other threads.

    Yields:
        Streams that still write to the original stdout and stderr.
    """
    with ExitStack() as closing:
        owns = []
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            closing.callback(_restore, stream, os.dup(descriptor), descriptor)
            own = os.fdopen(os.dup(descriptor), "w", encoding=stream.encoding, errors="backslashreplace", buffering=1)
            closing.callback(_close, own)
            owns.append(own)
        try:
            replacement = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError:  # no disk for it
            replacement = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(replacement, descriptor)
        os.close(replacement)
        yield owns[0], owns[1]


def _restore(stream: TextIO, kept: int, descriptor: int) -> None:
    try:
        stream.flush()  # what Python has still to write belongs into the file
    except OSError:
        pass
    os.dup2(kept, descriptor)
    os.close(kept)


def _take(stream: TextIO, instead: str | Path, closing: ExitStack) -> IO[str]:
    stream.flush()
    descriptor = stream.fileno()
    own = os.fdopen(os.dup(descriptor), "w", encoding=stream.encoding, errors="backslashreplace")
    try:
        replacement = os.open(instead, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:  # a full disk for temporary files
        replacement = os.open(os.devnull, os.O_WRONLY)
    os.dup2(replacement, descriptor)
    os.close(replacement)
    closing.callback(_close, own)
    return own


def _close(stream: IO[str]) -> None:
    try:
        stream.close()
    except OSError:
        pass  # the other end of the pipe was closed
