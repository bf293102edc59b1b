"""The real LoadGen, driven with an engine that takes milliseconds: what it asks for, in which order, and its logs."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from launch.mlperf import log_check
from launch.mlperf.loadgen import ACCURACY, DETAIL, SUMMARY, Answer, Served, drive
from launch.mlperf.settings import Settings
from launch.mlperf.standard import SEEDS, Scenario
from tests.support.small_model import ROOT

VIDEO_SECONDS = 0.003


def fast(seen: list[list[int]]) -> Answer:
    """An engine; notes the samples of each query, and refuses to work elsewhere than in the thread of the test."""
    thread = threading.get_ident()

    def answer(prompts: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        seen.append(list(prompts))
        for place, prompt in enumerate(prompts):
            assert threading.get_ident() == thread
            time.sleep(VIDEO_SECONDS)
            yield place, prompt.to_bytes(4, "big")

    return answer


def run(
    folder: Path, scenario: Scenario, queries: int, seconds: float, prompts: int = 60, accuracy: bool = False
) -> tuple[list[list[int]], list[Served]]:
    seen: list[list[int]] = []
    settings = Settings(queries, seconds, min(50, prompts), VIDEO_SECONDS)
    return seen, drive(settings, scenario, accuracy, folder, prompts, fast(seen))


def test_singlestream_issues_one_query_after_another_and_its_log_is_valid(tmp_path: Path) -> None:
    seen, served = run(tmp_path, Scenario.SINGLE_STREAM, 64, 0.3)
    assert len(seen) >= 64 and all(len(query) == 1 for query in seen)
    assert [sample.index for sample in served] == [query[0] for query in seen]
    detail = log_check.read_detail(tmp_path)
    assert list(log_check.performance_faults(tmp_path, detail, served)) == []
    assert detail["result_query_count"] == len(seen) and served[-1].issued_seconds >= 0.295
    assert {name: detail[f"effective_{name}"] for name in SEEDS} == SEEDS
    result = log_check.result_of(detail)
    assert result["latency_p90_seconds"] >= VIDEO_SECONDS and "samples_per_second" not in result
    assert list(log_check.submission_faults(detail)) == ["the shortest duration is 0.3 s, not 600"]


def test_offline_issues_all_samples_at_once_and_fills_the_duration(tmp_path: Path) -> None:
    seen, served = run(tmp_path, Scenario.OFFLINE, 60, 0.4)
    assert len(seen) == 1 and len(seen[0]) == len(served) > 60, "as many as fill the shortest duration"
    assert [sample.index for sample in served] == seen[0]
    detail = log_check.read_detail(tmp_path)
    assert list(log_check.performance_faults(tmp_path, detail, served)) == []
    rate = log_check.result_of(detail)["samples_per_second"]
    assert {name: detail[f"effective_{name}"] for name in SEEDS} == SEEDS, "also in a second test of one process"
    assert rate == pytest.approx(len(served) / served[-1].seconds, rel=0.02) and rate < 1 / VIDEO_SECONDS


def test_fewer_prompts_than_the_standards_are_all_drawn_from(tmp_path: Path) -> None:
    seen, _ = run(tmp_path, Scenario.OFFLINE, 3, 0, prompts=3)
    assert sorted(seen[0]) == [0, 1, 2]
    assert "the query has 3 samples" in " ".join(log_check.submission_faults(log_check.read_detail(tmp_path)))


def test_too_few_queries_are_called_invalid_as_loadgen_does(tmp_path: Path) -> None:
    _, served = run(tmp_path, Scenario.SINGLE_STREAM, 10, 0)
    faults = list(log_check.performance_faults(tmp_path, log_check.read_detail(tmp_path), served))
    assert any("early_stopping_met is false" in fault for fault in faults), faults


def test_accuracy_has_every_prompt_once_with_its_response(tmp_path: Path) -> None:
    seen, served = run(tmp_path, Scenario.OFFLINE, 60, 600, accuracy=True)
    assert sorted(index for query in seen for index in query) == list(range(60)) and len(served) == 60
    entries = json.loads((tmp_path / ACCURACY).read_text())
    assert {entry["qsl_idx"]: int(entry["data"], 16) for entry in entries} == {index: index for index in range(60)}
    detail = log_check.read_detail(tmp_path)
    assert list(log_check.accuracy_faults(tmp_path, detail, 60)) == []
    assert any("60 of 61" in fault for fault in log_check.accuracy_faults(tmp_path, detail, 61))


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Served]]:
    folder = tmp_path_factory.mktemp("valid")
    return folder, run(folder, Scenario.SINGLE_STREAM, 64, 0.1)[1]


def test_latencies_that_are_not_those_of_the_log_are_found(valid: tuple[Path, list[Served]]) -> None:
    folder, served = valid
    detail = log_check.read_detail(folder)
    slower = [Served(sample.index, 10 * sample.seconds, sample.issued_seconds) for sample in served]
    assert any("90.00_percentile" in fault for fault in log_check.performance_faults(folder, detail, slower))
    assert any("LoadGen counts" in fault for fault in log_check.performance_faults(folder, detail, served[1:]))
    assert "no sample was made" in list(log_check.performance_faults(folder, detail, []))
    early = [Served(sample.index, sample.seconds, 0.0) for sample in served]
    assert any("the test lasted 0.0 s" in fault for fault in log_check.performance_faults(folder, detail, early))


@pytest.mark.parametrize(
    "before, after, word",
    [
        ('"result_validity", "value": "VALID"', '"result_validity", "value": "INVALID"', "INVALID"),
        ('"early_stopping_met", "value": true', '"early_stopping_met", "value": false', "early_stopping_met"),
        ('"is_error": false', '"is_error": true', "reports an error"),
    ],
)
def test_a_log_that_was_altered_is_found(
    valid: tuple[Path, list[Served]], tmp_path: Path, before: str, after: str, word: str
) -> None:
    folder, served = valid
    text = (folder / DETAIL).read_text()
    assert before in text
    (tmp_path / DETAIL).write_text(text.replace(before, after, 1))
    (tmp_path / SUMMARY).write_text((folder / SUMMARY).read_text())
    faults = list(log_check.performance_faults(tmp_path, log_check.read_detail(tmp_path), served))
    assert any(word in fault for fault in faults), faults


def test_a_summary_that_does_not_say_valid_is_found(valid: tuple[Path, list[Served]], tmp_path: Path) -> None:
    folder, served = valid
    (tmp_path / SUMMARY).write_text((folder / SUMMARY).read_text().replace("VALID", "INVALID"))
    faults = list(log_check.performance_faults(tmp_path, log_check.read_detail(folder), served))
    assert faults == [f"{SUMMARY} does not say 'Result is : VALID'"]


def test_an_engine_that_fails_half_way_ends_the_test_with_its_own_error(tmp_path: Path) -> None:
    """In a process of its own: LoadGen cannot be told to stop, so the process has to be left at once."""
    program = f"""
import os, sys
from pathlib import Path
from launch.mlperf.loadgen import drive
from launch.mlperf.settings import Settings
from launch.mlperf.standard import Scenario
seen = []
def answer(prompts):
    seen.append(1)
    if len(seen) == 3:
        raise KeyError("the third")
    yield 0, b"x"
try:
    drive(Settings(64, 600, 4, 1.0), Scenario.SINGLE_STREAM, False, Path({str(tmp_path)!r}), 4, answer)
except KeyError as error:
    print(error, len(seen), flush=True)
    os._exit(7)
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (7, "'the third' 3\n"), ended
