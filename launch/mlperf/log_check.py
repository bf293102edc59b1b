"""Whether LoadGen's own logs make a valid result: by LoadGen's verdict, by the submission checker's rules on counts,
durations and seeds, and by the latencies that we have seen ourselves.

The submission checker's rules are those of ``tools/submission/submission_checker`` in github.com/mlcommons/inference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.mlperf.loadgen import ACCURACY, DETAIL, SUMMARY, Served
from launch.mlperf.standard import FEWEST_QUERIES, MIN_DURATION_SECONDS, SEEDS

_MARKER = ":::MLLOG"
_VALID = "Result is : VALID"
_TOLERANCE = 0.02
_TOLERANCE_SECONDS = 0.005
"""LoadGen's clock starts before ours and ends after it."""


def read_detail(folder: Path) -> dict[str, Any]:
    """The values of the detail log by key, of a key that is there twice the first; under "errors" the messages that
    LoadGen marks as errors.

    Raises:
        OSError: there is no log. ValueError: it is not one of LoadGen's.
    """
    values: dict[str, Any] = {"errors": []}
    for line in (folder / DETAIL).read_text(encoding="utf-8").splitlines():
        if not line.startswith(_MARKER):
            continue
        message = json.loads(line[len(_MARKER) :])
        values.setdefault(message["key"], message["value"])
        if message["metadata"]["is_error"]:
            values["errors"].append(str(message["value"]))
    if "effective_scenario" not in values:
        raise ValueError(f"{folder / DETAIL} names no scenario.")
    return values


def performance_faults(folder: Path, detail: Mapping[str, Any], served: Sequence[Served]) -> Iterator[str]:
    """One line on everything that makes a performance run invalid, or its log another than what has happened.

    Args:
        served: all samples, as we have seen them.
    """
    if _VALID not in (folder / SUMMARY).read_text(encoding="utf-8"):
        yield f"{SUMMARY} does not say {_VALID!r}"
    if detail.get("result_validity") != "VALID":
        yield f"LoadGen calls the result {detail.get('result_validity')}: {detail.get('result_invalid_reason', '')}"
    for flag in ("result_min_duration_met", "result_min_queries_met", "early_stopping_met"):
        if detail.get(flag) is not True:
            yield f"{flag} is {str(detail.get(flag)).lower()}"
    yield from (f"LoadGen reports an error: {error}" for error in detail["errors"])
    seconds = sorted(sample.seconds for sample in served)
    if not seconds:
        yield "no sample was made"
        return
    yield from _count_faults(detail, len(seconds))
    yield from _latency_faults(detail, seconds)
    # Offline's one query lasts as long as its last sample; SingleStream's last query comes after the shortest duration
    offline = detail["effective_scenario"] == "Offline"
    lasted = seconds[-1] if offline else max(sample.issued_seconds for sample in served)
    if lasted < detail["effective_min_duration_ms"] / 1000 - _TOLERANCE_SECONDS:
        yield f"the test lasted {lasted:.1f} s, of at least {detail['effective_min_duration_ms'] / 1000:g} s"


def submission_faults(detail: Mapping[str, Any]) -> Iterator[str]:
    """One line on each rule of the submission checker that a performance run does not keep."""
    if (found := detail.get("effective_performance_sample_count", 0)) < FEWEST_QUERIES:
        yield f"the performance set has {found} prompts, and {FEWEST_QUERIES} are the fewest"
    for name, seed in SEEDS.items():
        if detail.get(f"effective_{name}") != seed:
            yield f"{name} is {detail.get(f'effective_{name}')}, not {seed}"
    if (found := detail.get("effective_min_duration_ms", 0)) < 1000 * MIN_DURATION_SECONDS:
        yield f"the shortest duration is {found / 1000:g} s, not {MIN_DURATION_SECONDS}"
    if detail["effective_scenario"] == "Offline":
        if (found := detail.get("effective_samples_per_query", 0)) < FEWEST_QUERIES:
            yield f"the query has {found} samples, and {FEWEST_QUERIES} are the fewest"
    elif detail.get("early_stopping_met") is not True:
        yield f"early stopping was not met: {' '.join(str(detail.get('early_stopping_result')).split())}"


def accuracy_faults(folder: Path, detail: Mapping[str, Any], prompts: int) -> Iterator[str]:
    """One line on everything that makes an accuracy run invalid: each prompt has to be there once, with a response.

    Args:
        prompts: how many there are.
    """
    yield from (f"LoadGen reports an error: {error}" for error in detail["errors"])
    try:
        entries = json.loads((folder / ACCURACY).read_text(encoding="utf-8"))
        indices = sorted(entry["qsl_idx"] for entry in entries)
        empty = sum(not entry["data"] for entry in entries)
    except (ValueError, KeyError, TypeError):
        yield f"{ACCURACY} is not one of LoadGen's"
        return
    if indices != list(range(prompts)):
        yield f"{ACCURACY} has {len(indices)} samples, of {len(set(indices))} of {prompts} prompts"
    if empty:
        yield f"{empty} samples have no response"


def result_of(detail: Mapping[str, Any]) -> dict[str, float | None]:
    """The number of the scenario: of SingleStream the 90th percentile of latency, in seconds, and LoadGen's upper
    estimate of it at 99% confidence (None after too few queries); of Offline samples a second."""
    if detail["effective_scenario"] == "Offline":
        return {"samples_per_second": float(detail["result_samples_per_second"])}
    return {
        "latency_p90_seconds": detail["result_90.00_percentile_latency_ns"] / 1e9,
        "latency_p90_estimate_seconds": detail.get("early_stopping_latency_ss", 0) / 1e9 or None,
    }


def _count_faults(detail: Mapping[str, Any], made: int) -> Iterator[str]:
    offline = detail["effective_scenario"] == "Offline"
    fewest = detail["effective_min_sample_count" if offline else "effective_min_query_count"]
    logged = detail["effective_samples_per_query"] if offline else detail["result_query_count"]
    if made != logged:
        yield f"LoadGen counts {logged} samples, but {made} were made"
    if made < fewest:
        yield f"{made} samples were made, and {fewest} are the fewest"


def _latency_faults(detail: Mapping[str, Any], seconds: Sequence[float]) -> Iterator[str]:
    """
    Args:
        seconds: of all samples, shortest first.
    """
    wanted = {
        "result_min_latency_ns": seconds[0],
        "result_max_latency_ns": seconds[-1],
        "result_mean_latency_ns": sum(seconds) / len(seconds),
    }
    for percent in ("50.00", "90.00", "95.00", "97.00", "99.00", "99.90"):
        # LoadGen's percentile: the value at that share of the sorted list, rounded down
        wanted[f"result_{percent}_percentile_latency_ns"] = seconds[int(len(seconds) * float(percent) / 100)]
    for key, own in wanted.items():
        logged = detail.get(key)
        if logged is None or abs(logged / 1e9 - own) > _TOLERANCE * own + _TOLERANCE_SECONDS:
            shown = "not there" if logged is None else f"{logged / 1e9:.3f} s"
            yield f"{key} is {shown}, but the latencies give {own:.3f} s"
    if detail["effective_scenario"] == "Offline":
        rate, own = detail["result_samples_per_second"], len(seconds) / seconds[-1]
        if abs(rate - own) > _TOLERANCE * own:
            yield f"LoadGen counts {rate:.4g} samples a second, but the latencies give {own:.4g}"
