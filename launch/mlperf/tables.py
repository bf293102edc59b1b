"""The results of a test as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launch.mlperf.job import CACHE_OFF, CACHE_ON

_RESULTS = {
    "latency_p90_seconds": "90th percentile of latency, s",
    "latency_p90_estimate_seconds": "LoadGen's early-stopping estimate of it, s",
    "samples_per_second": "samples/s",
}


def to_markdown(document: Mapping[str, Any]) -> str:
    """Two numbers, cache off and on, and what they stand on.

    Args:
        document: as in ``mlperf.json``.
    """
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    made_with = document["made_with"]
    sampling, layout = made_with["sampling"], made_with["layout"]
    degrees = " × ".join(f"{name} {degree}" for name, degree in layout.items() if degree > 1) or "one rank"
    yield f"# MLPerf text-to-video, {document['scenario']}, {document['mode']}"
    yield ""
    yield (
        f"{sampling['width']} × {sampling['height']}, {sampling['frames']} frames, {sampling['steps']} steps; "
        f"{made_with['device']}; {degrees}."
    )
    yield ""
    runs = {name: document[name] for name in (CACHE_OFF, CACHE_ON) if name in document}
    yield "| | " + " | ".join(_heading(name, run) for name, run in runs.items()) + " |"
    yield "|---|" + "---|" * len(runs)
    for label, cells in _rows(runs):
        yield f"| {label} | " + " | ".join(cells) + " |"
    yield ""
    if document["gain"] is not None:
        yield f"With the cache on the number is {document['gain']:.2f} times as good."
        yield ""
    yield from _likeness(document["psnr_db"])
    yield from _scores(document["vbench"])
    yield from _list("Departures from the standard", document["departures_from_the_standard"])
    for name, run in runs.items():
        yield from _list(f"Why the run with the {_words(name)} is not valid", run["faults"])
        yield from _list(f"Rules of a submission that the run with the {_words(name)} does not keep", _unkept(run))


def _heading(name: str, run: Mapping[str, Any]) -> str:
    return f"{_words(name)} ({run['division']})"


def _rows(runs: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    some = next(iter(runs.values()))
    for key in some["result"] or ():
        yield _RESULTS[key], [_figure(run["result"][key]) for run in runs.values()]
    yield "LoadGen's logs valid", ["yes" if run["valid"] else "no" for run in runs.values()]
    yield "samples, of prompts", [f"{run['samples']}, {run['prompts']}" for run in runs.values()]
    for stage in some["median_seconds"]:
        label = "whole video" if stage == "video" else stage
        yield f"{label}, median s", [f"{run['median_seconds'].get(stage, 0):.4g}" for run in runs.values()]
    yield "steps skipped", [f"{run['steps_skipped']:.1%}" for run in runs.values()]
    if len(some["samples_by_replica"]) > 1:
        yield "samples by replica", [", ".join(map(str, run["samples_by_replica"])) for run in runs.values()]


def _likeness(psnr_db: Mapping[str, Any] | None) -> Iterator[str]:
    if psnr_db is None:
        return
    if psnr_db["mean"] is None:
        yield "No prompt's frames could be compared."
    else:
        yield (
            f"PSNR of the frames with the cache on against those with it off: mean {psnr_db['mean']:.1f} dB, worst "
            f"{psnr_db['worst']:.1f} dB, over {len(psnr_db['prompts'])} prompts."
        )
    yield ""


def _scores(vbench: Mapping[str, Any] | None) -> Iterator[str]:
    if vbench is None:
        return
    if "missing" in vbench:
        yield f"No VBench scores: {vbench['missing']}."
    for name, scores in vbench.items():
        if name != "missing":
            verdict = "reached" if scores["reached"] else "not reached"
            yield f"VBench, {_words(name)}: mean {scores['mean']:.2f}; the least, {scores['least']}, is {verdict}."
    yield ""


def _unkept(run: Mapping[str, Any]) -> list[str]:
    return list(run["submission_rules_not_kept"])


def _list(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield f"{title}:"
        yield ""
        yield from (f"- {line}" for line in lines)
        yield ""


def _figure(value: float | None) -> str:
    return "–" if value is None else f"**{value:.4g}**"


def _words(name: str) -> str:
    return name.replace("_", " ")
