"""A trace of one request on one rank by torch's profiler, which https://ui.perfetto.dev opens.

A trace of every step of a long request would take gigabytes. So the trace holds encoding, the first two denoise steps,
four from the first that follows a skipped one, and the first two chunks of decoding. Between these parts the profiler
is off. Each part is a session of the profiler; all count their time from the same moment, so they become one file.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from engine.storage.files import StagedFiles

Span = Callable[[str], AbstractContextManager[Any]]

_FIRST_STEPS, _LATER_STEPS, _DECODED_CHUNKS = 2, 4, 2


def no_span(name: str) -> AbstractContextManager[Any]:
    """The part of a step that runs inside is not named: nothing is traced."""
    return nullcontext()


@contextmanager
def trace(folder: Path, rank: int, device: torch.device) -> Iterator["Tracing"]:
    """One request runs inside, to which the tracing is given; then its trace is written to :func:`trace_file`.

    Args:
        rank: of the job.

    Raises:
        OSError: the file cannot be written.
    """
    with Tracing(device) as tracing:
        yield tracing
        tracing.write(trace_file(folder, rank))


def trace_file(folder: Path, rank: int) -> Path:
    """Where a rank of the job writes its trace."""
    return folder / f"trace-rank{rank}.json.gz"


class Tracing:
    """Records what runs between the beginning and the end of its context, as said above."""

    def __init__(self, device: torch.device) -> None:
        self._activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        self._folder = TemporaryDirectory(prefix="lockstep-trace-")
        self._parts: list[Path] = []
        self._profile: profile | None = None
        self._first_left, self._later_left, self._chunks_left = _FIRST_STEPS, _LATER_STEPS, _DECODED_CHUNKS
        self._has_skipped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
        self._folder.cleanup()

    def span(self, name: str) -> AbstractContextManager[Any]:
        """What runs inside has this name in the trace."""
        return record_function(name)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """This stage of the request runs inside, or a chunk of it where decoding and writing take turns."""
        if name == "encode" or (name == "decode" and self._chunks_left):
            self._record()
        with record_function(name):
            yield
        if name == "denoise":
            self._rest()
        elif name == "decode" and self._chunks_left:
            self._chunks_left -= 1
            if not self._chunks_left:
                self._rest()

    @contextmanager
    def step(self, index: int) -> Iterator[None]:
        """This denoise step runs inside."""
        if self._first_left:
            self._first_left -= 1
            self._record()
        elif self._has_skipped and self._later_left:
            self._later_left -= 1
            self._record()
        else:
            self._rest()
        with record_function(f"step {index}"):
            yield

    def saw(self, action: str) -> None:
        """The step of now was a "warmup", "compute" or "skip"."""
        self._has_skipped = self._has_skipped or action == "skip"

    def write(self, path: Path) -> None:
        """Write all that was recorded, and end.

        Raises:
            OSError: the file cannot be written.
        """
        self._rest()
        whole: dict[str, Any] = {"traceEvents": []}
        for part in self._parts:
            document = json.loads(part.read_text(encoding="utf-8"))
            whole = {**document, "traceEvents": [*whole["traceEvents"], *document["traceEvents"]]}
        with StagedFiles() as files, gzip.open(files.stage(path), "wt", encoding="utf-8") as stream:
            json.dump(whole | {"traceName": path.name}, stream)

    def _record(self) -> None:
        if self._profile is None:
            self._profile = profile(activities=self._activities)
            self._profile.start()

    def _rest(self) -> None:
        if self._profile is None:
            return
        self._profile.stop()
        part = Path(self._folder.name) / f"{len(self._parts)}.json"
        self._profile.export_chrome_trace(str(part))
        self._parts.append(part)
        self._profile = None
