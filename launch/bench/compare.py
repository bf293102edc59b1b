"""`lockstep bench --compare A B`: is B slower than A, beyond the noise of both?

Two separate runs differ by what the machine did in each. What other processes took of the processor is taken out of the
times, the speed of the machine is divided out by the reference beside each video, and the drift that is left is allowed
for. Where a stage slept or waited is compared apart: the speed of the machine is not in that. Variants of one run that
took turns need none of it; they are compared pair by pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from engine.errors import InvalidInput
from launch.bench import samples
from launch.bench.comparison import Comparison, Row, Verdict
from launch.bench.differences import differences, differences_in_turns, names_in_turns, refuse_unlike
from launch.bench.document import BenchDocument, Measured
from launch.bench.noise import SPEED_DRIFT, WAITS_DRIFT, Ratio, paired, separate

SLOWER_BY = 0.02
"""A share that a machine's noise hides from everybody but a benchmark, and that adds up over releases."""
_GATES, _STEP = ("a video", "denoise"), "a step"
_WAITS = " with its waits, over without"


def compare(
    a: BenchDocument, b: BenchDocument, slower_by: float = SLOWER_BY, names: tuple[str, str] = ("A", "B")
) -> Comparison:
    """B's run over A's.

    Args:
        slower_by: the share by which B may be slower, 0 or more.
        names: of A and B, for people.

    Raises:
        InvalidInput: they measured different work, or the share is none.
    """
    _refuse_share(slower_by)
    refuse_unlike(a, b)
    notes = differences(a, b)
    same_prompts = a.made_with.get("prompts") == b.made_with.get("prompts")
    pair = samples.Pair.of(a.samples, b.samples, same_prompts)
    rows = [*_times(a, b, pair, False), *_startup(a, b), *_counts(a, b)]
    return _concluded(rows, names, False, [*notes, *_on_noise(rows, pair)], slower_by)


def compare_against(document: BenchDocument, slower_by: float = SLOWER_BY) -> Comparison:
    """A run, B, over the configuration or the build, A, that took turns with it.

    Raises:
        InvalidInput: the run had none, or the share is none.
    """
    _refuse_share(slower_by)
    reference = document.against
    if reference is None:
        raise InvalidInput(
            "These results have nothing that took turns to compare with: measure with --against or --against-build."
        )
    pair = samples.Pair.of(reference.samples, document.samples)
    rows = [*_times(reference, document, pair, True), *_counts(reference, document)]
    names = names_in_turns(document)
    return _concluded(rows, names, True, [*differences_in_turns(document), *_on_noise(rows, pair)], slower_by)


def _refuse_share(slower_by: float) -> None:
    if not (math.isfinite(slower_by) and slower_by >= 0):
        raise InvalidInput(f"--slower-by is {slower_by:g}, which is no share: give 0 or more, for example 0.02.")


def _times(a: Measured, b: Measured, pair: samples.Pair, in_turns: bool) -> Iterator[Row]:
    at_speed = not in_turns and pair.has_reference
    figures = {"a video": samples.seconds("total", at_speed)}
    figures |= {stage: samples.seconds(stage, at_speed) for stage in ("encode", "denoise", "decode", "write")}
    figures |= {"a computed step": samples.step(False, at_speed), "a skipped step": samples.step(True, at_speed)}
    typical = {"a video": "total"}
    for name, figure in figures.items():
        found = _ratio(pair, figure, in_turns)
        stage = typical.get(name, name)
        values = [_typical(each, stage) for each in (a, b)]
        if all(values):
            yield _time_row(name, "s", values, found)
    if _on_processors(a) and _on_processors(b):
        waits = {name: samples.with_waits(typical.get(name, name)) for name in _GATES}
        for name, figure in (waits | {_STEP: samples.step_with_waits}).items():
            if (logs := pair.logs(figure)) is not None:
                found = _ratio(pair, figure, in_turns, WAITS_DRIFT)
                each_typical = [math.exp(float(np.nanmedian(each))) for each in logs]
                yield _time_row(name + _WAITS, "", each_typical, found)
    replicas = [each.layout.get("data", 1) for each in (a, b)]
    if (found := _ratio(pair, samples.seconds("total", at_speed), in_turns)) is not None:
        more = replicas[1] / replicas[0]
        inverse = found.inverse
        found = Ratio(inverse.ratio * more, inverse.low * more, inverse.high * more)
    yield _rate_row("videos an hour", [a.videos_per_hour, b.videos_per_hour], found)


def _on_processors(measured: Measured) -> bool:
    """Whether what was timed ran on the ranks' own threads: on a GPU they wait for it, and that is the work."""
    return all(rank.device.startswith("cpu") for rank in measured.ranks)


def _typical(measured: Measured, stage: str) -> float:
    if stage in ("a computed step", "a skipped step"):
        spread = measured.steps.computed if stage == "a computed step" else measured.steps.skipped
    else:
        spread = measured.stages.get(stage) or (measured.seconds_per_video if stage == "total" else None)
    return spread.median if spread is not None else 0.0


def _ratio(pair: samples.Pair, figure: samples.Figure, in_turns: bool, drift: float = SPEED_DRIFT) -> Ratio | None:
    if (logs := pair.logs(figure)) is None:
        return None
    if not in_turns:
        return separate(*logs, drift)
    return paired(*logs) if logs[0].shape == logs[1].shape else None


def _time_row(name: str, unit: str, values: Sequence[float], found: Ratio | None) -> Row:
    a, b = values
    if found is None:
        return Row(
            name=name, unit=unit, a=a, b=b, ratio=b / a if a else None, low=None, high=None, verdict="not judged"
        )
    verdict: Verdict = "slower" if found.low > 1 else "faster" if found.high < 1 else "no difference seen"
    return Row(name=name, unit=unit, a=a, b=b, ratio=found.ratio, low=found.low, high=found.high, verdict=verdict)


def _rate_row(name: str, values: Sequence[float], found: Ratio | None) -> Row:
    """Of a rate, which is better where it is higher."""
    row = _time_row(name, "", values, found)
    turned: dict[Verdict, Verdict] = {"slower": "faster", "faster": "slower"}
    return row.model_copy(update={"verdict": turned.get(row.verdict, row.verdict)})


def _startup(a: BenchDocument, b: BenchDocument) -> Iterator[Row]:
    for name, key in (("import", "import_"), ("load", "load"), ("first step", "first_step")):
        yield _time_row(f"start: {name}", "s", [getattr(each.startup_seconds, key) for each in (a, b)], None)


def _counts(a: Measured, b: Measured) -> Iterator[Row]:
    for name, unit, key in (
        ("steps computed", "", "steps_computed"),
        ("blocks computed", "of all", "block_fraction"),
        ("peak memory", "bytes", "peak_memory_bytes"),
        ("cache", "bytes", "cache_bytes"),
    ):
        yield _count_row(name, unit, getattr(a, key), getattr(b, key))
    sent = [sum(each.collective_bytes_by_kind.values()) for each in (a, b)]
    yield _count_row("sent by a rank for a video", "bytes", *sent)


def _count_row(name: str, unit: str, a: float, b: float) -> Row:
    verdict: Verdict = "equal" if a == b else "more" if b > a else "less"
    return Row(name=name, unit=unit, a=a, b=b, ratio=b / a if a else None, low=None, high=None, verdict=verdict)


def _on_noise(rows: Sequence[Row], pair: samples.Pair) -> Iterator[str]:
    if not pair.by_unit:
        yield "The prompts differ, so that ratios have the differences of what was made in them too."
    if rows[0].verdict == "not judged":
        yield "There are too few rounds to know the noise, so that no time is judged: measure with --rounds 5 or more."


def _concluded(
    rows: Sequence[Row], names: tuple[str, str], in_turns: bool, notes: Iterable[str], slower_by: float
) -> Comparison:
    by_name = {row.name: row for row in rows}
    slower = []
    for gate in (*_GATES, _STEP):
        for name in (gate, gate + _WAITS):
            row = by_name.get(name)
            # what waits more and is faster in all has won by it
            all_of_it = by_name.get("denoise" if gate == _STEP else gate)
            won = all_of_it is not None and all_of_it.verdict == "faster"
            if row is not None and row.verdict == "slower" and (row.ratio or 0) > 1 + slower_by and not won:
                slower.append(name)
    a, b = names
    return Comparison(a=a, b=b, paired=in_turns, notes=list(notes), slower_by=slower_by, rows=list(rows), slower=slower)
