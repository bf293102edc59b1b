"""The only file that imports mlperf_loadgen, MLCommons' load generator (package ``mlcommons-loadgen``, an extra).

LoadGen runs in a thread of its own, which hands each query to the thread that called :func:`drive` and waits for it. So
the engine stays in one thread, of a local rank the main one, where signals are handled as everywhere else, and its
errors never pass through LoadGen's frames: those would free logs to which another thread of LoadGen still writes.
"""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from engine.errors import InvalidInput
from launch.mlperf.settings import Settings
from launch.mlperf.standard import MODEL, Scenario

SUMMARY, DETAIL, ACCURACY = "mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json"

Answer = Callable[[Sequence[int]], Iterator[tuple[int, bytes]]]
"""Takes the sample indices of a query, and gives the place of each in the query with its response, as it is ready. What
it does between two of them counts in no sample's latency."""


@dataclass(frozen=True)
class Served:
    """One sample, as we have seen it."""

    index: int
    """Of the prompt."""
    seconds: float
    """From the query to its response."""
    issued_seconds: float
    """When its query came, after the first one."""


def require_loadgen() -> None:
    """
    Raises:
        InvalidInput: it is not installed.
    """
    try:
        import mlperf_loadgen  # noqa: F401
    except ImportError:
        raise InvalidInput(
            "--mlperf needs MLCommons' load generator, which is not installed: pip install 'lockstep-video[mlperf]'."
        ) from None


def drive(
    settings: Settings, scenario: Scenario, accuracy: bool, folder: Path, samples: int, answer: Answer
) -> list[Served]:
    """Run one test of LoadGen, which writes its logs into the folder.

    Args:
        accuracy: each sample once, with its response in the log; else LoadGen's choice of samples, timed.
        samples: how many there are.

    Raises:
        Whatever ``answer`` raises. LoadGen cannot be told to stop: its threads wait, and the process has to be left by
            ``os._exit``, as :func:`launch.process.running.leave` does.
        RuntimeError: LoadGen does not know its own settings, or has ended with an error of its own.
    """
    import mlperf_loadgen as lg

    test, logs = _test_settings(settings, scenario, accuracy), _log_settings(folder)
    queries: SimpleQueue[Sequence[Any] | _Ended] = SimpleQueue()
    answered = threading.Semaphore(0)

    def issue(query: Sequence[Any]) -> None:
        queries.put(query)
        answered.acquire()

    def run() -> None:
        error = None
        try:
            sut = lg.ConstructSUT(issue, _nothing)
            qsl = lg.ConstructQSL(samples, settings.performance_samples, _nothing, _nothing)
            # LoadGen reads an audit.config of the working directory unless it is given another name
            lg.StartTestWithLogSettings(sut, qsl, test, logs, str(folder / "audit.config"))
            lg.DestroyQSL(qsl)
            lg.DestroySUT(sut)
        except Exception as raised:
            error = raised
        queries.put(_Ended(error))

    loadgen = threading.Thread(target=run, name="LoadGen", daemon=True)
    loadgen.start()
    served: list[Served] = []
    first: float | None = None
    while not isinstance(query := queries.get(), _Ended):
        started = time.perf_counter()
        first = started if first is None else first
        for place, response in answer([sample.index for sample in query]):
            data = array.array("B", response)  # has to live until LoadGen has copied it
            address, length = data.buffer_info()
            lg.QuerySamplesComplete([lg.QuerySampleResponse(query[place].id, address, length)])
            served.append(Served(query[place].index, time.perf_counter() - started, started - first))
        answered.release()
    loadgen.join()
    if query.error is not None:
        raise RuntimeError(f"LoadGen has ended with an error: {query.error}") from query.error
    return served


def _test_settings(settings: Settings, scenario: Scenario, accuracy: bool) -> Any:
    """LoadGen's TestSettings: the standard's, and what the configuration asks for."""
    import mlperf_loadgen as lg

    test = lg.TestSettings()
    # the standard's settings, which come with LoadGen (0); it takes a file of settings (1) once in a process only, and
    # would run its second test with none
    if test.FromConfig("", MODEL, scenario.loadgen_name, 0):
        raise RuntimeError("LoadGen does not know the settings of the standard.")
    test.min_duration_ms = round(settings.min_duration_seconds * 1000)
    test.min_query_count = settings.queries
    test.performance_sample_count_override = settings.performance_samples
    if scenario is Scenario.SINGLE_STREAM:
        test.single_stream_expected_latency_ns = max(1, round(settings.expected_latency_seconds * 1e9))
    else:
        test.offline_expected_qps = settings.expected_samples_per_second
    test.scenario = getattr(lg.TestScenario, scenario.loadgen_name)
    test.mode = lg.TestMode.AccuracyOnly if accuracy else lg.TestMode.PerformanceOnly
    return test


def _log_settings(folder: Path) -> Any:
    """LoadGen's LogSettings, for logs in that folder."""
    import mlperf_loadgen as lg

    output = lg.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(folder), False
    logs = lg.LogSettings()
    logs.log_output = output
    return logs


@dataclass(frozen=True)
class _Ended:
    """LoadGen's test has."""

    error: Exception | None


def _nothing(*_: Any) -> None:
    """Prompts need no loading, and no query waits to be flushed."""
