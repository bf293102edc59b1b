"""The page `docs/bench.md`: how to measure and compare, and all keys of `bench.json`, from their definitions.

python -m launch.bench.page > docs/bench.md
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from launch.bench.comparison import Comparison, Row
from launch.bench.document import (
    BenchDocument,
    CacheGain,
    Flops,
    Measured,
    RankRow,
    Sample,
    ScaleRow,
    Skew,
    Spread,
    Startup,
    StepSeconds,
)

_PARTS: tuple[type[BaseModel], ...] = (
    BenchDocument,
    Measured,
    Spread,
    StepSeconds,
    CacheGain,
    Skew,
    RankRow,
    Flops,
    Startup,
    Sample,
    ScaleRow,
)
_COMPARISON: tuple[type[BaseModel], ...] = (Comparison, Row)
HEAD = """# Measuring: `lockstep bench`

Written by `python -m launch.bench.page`; a test compares it with the code.

    lockstep bench configs/tiny-wan.yaml --output before
    lockstep bench configs/tiny-wan.yaml --output after
    lockstep bench --compare before after

A bench warms up, and then makes the same videos in every round, with the cache and without it by turns. The folder
gets `bench.json` with all figures and samples, `bench.md` with tables, and pictures: `stages` (time by stage and
rank), `steps` (which steps were skipped, and what each took) and `scaling`.

## Comparing

`--compare A B` takes folders or files, and prints B over A with the noise of both. A verdict is given only where the
interval leaves out 1. The exit code is 1 where a video or its denoising is slower in B beyond the noise by more than
`--slower-by` (0.02 by default), else 0; results of other models, sizes or numbers of steps are refused with 2.
`--report FILE` writes the comparison as JSON.

- **Turns in one run are better than two runs.** A machine drifts: on two cores of a virtual machine that had nothing
  else to do, the denoise seconds of eight runs of one build, some 17 s each, had a standard deviation of 13%, and
  those of the rounds within a run 6% (28 November 2026, `configs/tiny-wan.yaml`, 12 steps, no GPU). `--against
  REF_CONFIG` makes both configurations' videos one after the other in each round, and `--compare A A` of such a
  result compares the two pair by pair. `--against-build FOLDER` does so with another build, see below.
- **Of two runs**, the time in which other processes had the processor is taken out, the speed of the machine is
  divided out by a reference that is timed before each video, and for the drift that is left each interval is widened
  by twice the deviation of the rounds. What is left is wide on a machine that drifts.
- **Waits are compared apart.** `with its waits, over without` is a stage's time over that without its waits: 1 where it
  never sleeps or waits for a disk. The speed of the machine is not in it, so that a wait of a few per cent is seen in
  two runs too. Of `a step` it is the median over all steps, which a pause of a virtual machine does not change. A run
  that waits more and is faster in all is not called slower. On a GPU the ranks' threads wait for it by nature, and
  there are no such rows.
- Five rounds or more are needed to know the noise. One round is not judged.

## Two builds by turns

    git worktree add ../before main
    lockstep bench configs/tiny-wan.yaml --output both --against-build ../before
    lockstep bench --compare both both

`--against-build` names another checkout of this project. Its `.venv/bin/python` runs it where there is one, else the
interpreter of this command, with the checkout first on its path. Both builds load the same configuration, prompts and
overrides, on as many ranks each, so memory has to hold both models. Then one works at a time, in an order that changes
from round to round; the processes of the other sleep. `against` in `bench.json` is the other build, without a run of
its own with the cache off, and `made_with.builds` names folder, version and commit of both. `--compare both both`
compares this build (B) with the other one (A) pair by pair, and says where they do not make the same videos.

The two talk by lines of JSON over a connection of this machine (protocol 1, `launch/bench/turns/line.py`). A build from
before that, or one that does not know the configuration, is refused in a sentence. When one of the two fails or is
ended, so is the other. Ranks are local ones, and one replica: torchrun, Ray and `parallel.data` above 1 are refused.
"""


def bench_page() -> str:
    """Markdown: usage, and a table of keys for each part of the document and of a comparison."""
    lines = [HEAD, "## bench.json, schema 1", "", *_text(_module(BenchDocument)), ""]
    for part in _PARTS:
        lines += _part(part)
    lines += ["## The report of a comparison", ""]
    for part in _COMPARISON:
        lines += _part(part)
    return "\n".join(lines).rstrip("\n") + "\n"


def _module(part: type[BaseModel]) -> str:
    module = inspect.getmodule(part)
    return inspect.cleandoc(module.__doc__ or "").partition("\n\n")[2] if module else ""


def _text(docstring: str) -> Iterator[str]:
    """Without the marks of Sphinx."""
    yield docstring.replace(":class:", "")


def _part(part: type[BaseModel]) -> Iterator[str]:
    yield f"### {part.__name__}"
    yield ""
    yield from _text(inspect.cleandoc(part.__doc__ or ""))
    yield ""
    yield "| key | value | |"
    yield "|---|---|---|"
    inherited = {name for base in _PARTS if base in part.__mro__[1:] for name in base.model_fields}
    for name, field in part.model_fields.items():
        if name not in inherited:
            yield f"| `{field.alias or name}` | {_kind(field.annotation)} | {field.description or ''} |"
    for base in _PARTS:
        if base in part.__mro__[1:]:
            yield f"\nBeside these all keys of {base.__name__}."
    yield ""


def _kind(annotation: Any) -> str:
    """A type in words."""
    arguments = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join("null" if each is type(None) else _kind(each) for each in arguments)
    if get_origin(annotation) is list:
        return f"list of {_kind(arguments[0])}"
    if get_origin(annotation) is dict:
        return f"{_kind(arguments[1])} by name"
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    return _NAMES.get(annotation) or annotation.__name__


_NAMES: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Any: "anything",
}


if __name__ == "__main__":
    print(bench_page(), end="")
