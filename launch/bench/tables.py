"""The results of a bench as Markdown: `bench.md`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from launch.bench.document import BenchDocument, Measured, Spread

_STAGES = ("encode", "denoise", "decode", "write", "total")


def to_markdown(document: BenchDocument) -> str:
    """All figures that are in the document, but for single samples, in tables."""
    parts = [_heading(document), _headline(document), _stages(document), _steps(document), _gain(document)]
    parts += [_ranks(document), _collectives(document), _flops(document), _startup(document), _scaling(document)]
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part))) + "\n"


def variants(document: BenchDocument) -> dict[str, Measured]:
    """What took turns, by its name for people."""
    found: dict[str, Measured] = {"as configured": document}
    if document.cache_off is not None:
        found["cache off"] = document.cache_off
    if document.against is not None:
        found["against"] = document.against
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a Markdown table; cells are text, whatever characters they have."""
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |"


def seconds(value: float) -> str:
    """In the unit that suits: "1.23 s", "45.6 ms", "780 µs"."""
    if value >= 1 or value <= 0:
        return f"{value:.4g} s" if value < 1e5 else f"{value:.0f} s"
    return f"{1000 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} µs"


def bytes_text(count: float) -> str:
    """In binary units: "1.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def _heading(document: BenchDocument) -> Iterator[str]:
    made, config = document.made_with, _section(document.made_with, "config")
    sampling, model = _section(config, "sampling"), _section(config, "model")
    name = str(model.get("path", "")).rstrip("/").rpartition("/")[2]
    yield f"# {name or 'Bench'}: {_rate(document)}"
    yield ""
    ranks = f"{document.world_size} rank{'s' if document.world_size > 1 else ''}"
    facts = [f"{sampling.get(key)} {word}" for key, word in (("steps", "steps"), ("frames", "frames"))]
    facts += [f"{sampling.get('width')} × {sampling.get('height')}", f"{ranks} ({_layout(document)})"]
    facts.append(", ".join(sorted({rank.device for rank in document.ranks})) or "no device")
    yield f"{', '.join(facts)}; {document.videos} counted videos"
    hosts = sorted({rank.host for rank in document.ranks})
    versions = ", ".join(f"{key} {value}" for key, value in _section(made, "versions").items())
    yield f"on {', '.join(hosts)}, started {made.get('started', 'at a time not noted')}; {versions or 'no versions'}."


def _headline(document: BenchDocument) -> Iterator[str]:
    head = ("", "s a video, median", "p10", "p90", "p99", "videos/h", "videos/h/rank", "frames/s", "steps/s")
    yield from table(
        head,
        (
            (name, *_spread(each.seconds_per_video), *(f"{value:.4g}" for value in _rates(each)))
            for name, each in variants(document).items()
        ),
    )


def _rates(each: Measured) -> tuple[float, ...]:
    return each.videos_per_hour, each.videos_per_hour_per_rank, each.frames_per_second, each.steps_per_second


def _stages(document: BenchDocument) -> Iterator[str]:
    yield "## Stages"
    yield ""
    rows = []
    for name, each in variants(document).items():
        known = [stage for stage in _STAGES if stage in each.stages]
        whole = each.seconds_per_video.median
        for stage in [*known, *(stage for stage in each.stages if stage not in known)]:
            share = each.stages[stage].median / whole if whole else 0.0
            rows.append((name, stage, *_spread(each.stages[stage]), f"{share:.1%}"))
    yield from table(("", "stage", "median", "p10", "p90", "p99", "share"), rows)


def _steps(document: BenchDocument) -> Iterator[str]:
    yield "## Steps"
    yield ""
    rows = []
    for name, each in variants(document).items():
        kinds = (
            ("computed", each.steps_computed, each.steps.computed),
            ("skipped", each.steps_skipped, each.steps.skipped),
        )
        for kind, count, spread in kinds:
            if spread is not None:
                rows.append((name, kind, f"{count:.4g}", *_spread(spread), str(spread.samples)))
    yield from table(("", "steps", "a video", "median", "p10", "p90", "p99", "samples"), rows)
    yield ""
    for name, each in variants(document).items():
        share = each.steps_skipped / max(each.steps_skipped + each.steps_computed, 1e-9)
        yield f"- {name}: {share:.1%} of steps skipped, {each.block_fraction:.1%} of blocks computed."


def _gain(document: BenchDocument) -> Iterator[str]:
    gain = document.cache_gain
    if gain is None:
        return
    yield "## Gain of the cache"
    yield ""
    rows = [("denoising", *_times(gain.speedup)), ("whole videos", *_times(gain.end_to_end))]
    yield from table(("faster in", "median", "p10", "p90", "p99"), rows)
    yield ""
    reached = f"; {gain.share_of_ideal:.1%} of the time of the left-out blocks is saved" if gain.share_of_ideal else ""
    yield f"Ideal, were nothing but blocks to cost time: {gain.ideal:.3g}×{reached}."
    if gain.psnr_db is None:
        yield "The frames equal those without the cache."
    else:
        yield f"PSNR against the frames without the cache: {gain.psnr_db.median:.1f} dB, p10 {gain.psnr_db.p10:.1f} dB."


def _ranks(document: BenchDocument) -> Iterator[str]:
    yield "## Ranks"
    yield ""
    skew = document.skew
    head = ["rank", "host", *(stage for stage in _STAGES if stage in document.stages), "wait a video", "peak memory"]
    rows = []
    for row in document.ranks:
        stages = (seconds(row.stages.get(stage, 0.0)) for stage in head[2:-2])
        rows.append([str(row.rank), row.host, *stages, seconds(row.wait_seconds), bytes_text(row.peak_memory_bytes)])
    if skew is not None:
        head.append("late, median (p99)")
        for row, cells in zip(document.ranks, rows, strict=True):
            late = row.late_seconds
            cells.append(f"{seconds(late.median)} ({seconds(late.p99)})" if late else "–")
    yield from table(head, rows)
    if skew is None:
        return
    yield ""
    typical = f"{seconds(skew.seconds.median)} (p99 {seconds(skew.seconds.p99)})"
    yield f"Skew, from the first rank's arrival at a step's agreement to the last's: {typical}."
    if skew.late_rank is None:
        yield f"No rank is the late one: the one that was last most often was so in {skew.late_share:.0%} of steps."
    else:
        host = next((f" on {row.host}" for row in document.ranks if row.rank == skew.late_rank), "")
        yield f"**Rank {skew.late_rank}{host} is late**: it came last in {skew.late_share:.0%} of steps."


def _collectives(document: BenchDocument) -> Iterator[str]:
    yield "## Collectives and memory"
    yield ""
    rows = []
    for name, each in variants(document).items():
        kinds = sorted(each.collective_bytes_by_kind.keys() | each.collective_seconds_by_kind.keys())
        for kind in kinds:
            sent, taken = each.collective_bytes_by_kind.get(kind), each.collective_seconds_by_kind.get(kind)
            texts = ("–" if sent is None else bytes_text(sent), "–" if taken is None else seconds(taken))
            rows.append((name, kind, *texts))
    if rows:
        yield from table(("", "kind", "sent by a rank for a video", "time in them for a video"), rows)
        yield ""
    for name, each in variants(document).items():
        agreement = each.agreement_microseconds
        took = f"agreement {agreement.median:.4g} µs a step (p99 {agreement.p99:.4g} µs), " if agreement else ""
        memory = f"cache {bytes_text(each.cache_bytes)}, peak memory {bytes_text(each.peak_memory_bytes)} a rank"
        yield f"- {name}: {took}{memory}."


def _flops(document: BenchDocument) -> Iterator[str]:
    rows = []
    for name, each in variants(document).items():
        if (flops := each.flops) is None:
            continue
        peak, share = flops.peak_per_second_per_rank, flops.share_of_peak
        known = ("–" if peak is None else f"{_flops_text(peak)}/s", "–" if share is None else f"{share:.1%}")
        rows.append((name, _flops_text(flops.per_video), f"{_flops_text(flops.denoise_per_second)}/s", *known))
    if not rows:
        return
    yield "## FLOPs"
    yield ""
    yield from table(("", "a video", "in denoising", "measured peak of a rank", "share of the peak"), rows)
    if document.flops is not None and document.flops.by_kind:
        total = sum(document.flops.by_kind.values()) or 1.0
        kinds = sorted(document.flops.by_kind.items(), key=lambda item: -item[1])
        yield ""
        yield f"By kind of layer: {', '.join(f'{kind} {value / total:.1%}' for kind, value in kinds)}."
    stages = {} if document.flops is None else document.flops.by_stage
    if beside := [f"{stage} {_flops_text(value)}" for stage, value in stages.items() if stage != "denoise"]:
        yield ""
        yield f"Beside denoising: {', '.join(beside)}."


def _flops_text(value: float) -> str:
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if value >= factor:
            return f"{value / factor:.4g} {unit}FLOP"
    return f"{value / 1e6:.4g} MFLOP"


def _startup(document: BenchDocument) -> Iterator[str]:
    start = document.startup_seconds
    yield "## Start-up"
    yield ""
    yield f"Import {seconds(start.import_)}, load {seconds(start.load)}, first step {seconds(start.first_step)}."


def _scaling(document: BenchDocument) -> Iterator[str]:
    if not document.scale:
        return
    yield "## Scaling"
    yield ""
    head = (
        "ranks",
        "layout",
        "s a video",
        "speed-up",
        "efficiency",
        "cache off: s a video",
        "its speed-up",
        "its efficiency",
    )
    rows = []
    for row in document.scale:
        off = ["–"] * 3
        if row.cache_off is not None and row.speedup_off is not None and row.efficiency_off is not None:
            off = [
                seconds(row.cache_off.seconds_per_video.median),
                f"{row.speedup_off:.3g}×",
                f"{row.efficiency_off:.0%}",
            ]
        on = [seconds(row.cache_on.seconds_per_video.median), f"{row.speedup_on:.3g}×", f"{row.efficiency_on:.0%}"]
        rows.append((str(row.world_size), _layout(row.cache_on), *on, *off))
    yield from table(head, rows)


def _rate(measured: Measured) -> str:
    return f"{measured.videos_per_hour:.4g} videos an hour"


def _layout(measured: Measured) -> str:
    return " × ".join(f"{name} {degree}" for name, degree in measured.layout.items() if degree > 1) or "no degrees"


def _spread(spread: Spread) -> tuple[str, ...]:
    return tuple(map(seconds, (spread.median, spread.p10, spread.p90, spread.p99)))


def _times(spread: Spread) -> tuple[str, ...]:
    return tuple(f"{value:.3g}×" for value in (spread.median, spread.p10, spread.p90, spread.p99))


def _section(mapping: Mapping[str, object], key: str) -> Mapping[str, object]:
    section = mapping.get(key)
    return section if isinstance(section, dict) else {}
