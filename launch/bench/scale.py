"""`lockstep bench --scale 1,2,4`: one number of ranks after the other, each a start of ranks and a bench of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engine.errors import InvalidInput
from launch.bench.document import BenchDocument, Measured, ScaleRow
from launch.bench.folder import BenchFolder
from launch.bench.reading import read_document
from launch.process.signals import say
from launch.process.stamps import timed
from parallel.place import Place


def read_counts(text: str) -> list[int]:
    """The numbers of ranks of ``--scale``, fewest first.

    Raises:
        InvalidInput: they are not numbers of ranks; one sentence.
    """
    counts = []
    for word in text.split(","):
        if not word.strip().isdecimal() or int(word) < 1:
            raise InvalidInput(f"--scale names {word!r}, which is no number of ranks: write 1,2,4.")
        counts.append(int(word))
    if repeated := next((count for count in counts if counts.count(count) > 1), None):
        raise InvalidInput(f"--scale names {repeated} twice: name each number of ranks once.")
    return sorted(counts)


def run_scale(
    folder: Path,
    counts: Sequence[int],
    prepare: Callable[[Place, Path], object],
    start: Callable[[int, Path], int],
    finish: Callable[[BenchDocument], None],
) -> int:
    """Measure every number of ranks, and write all results together into the folder.

    Args:
        counts: fewest first.
        prepare: checks a run for a place and a folder.
        start: has that many ranks measure, with results in a folder of their own; returns the exit code.
        finish: is given the whole.

    Returns:
        The exit code: 0, or that of the run that failed, with which it ends.

    Raises:
        InvalidInput: one of the numbers cannot run; before anything is started.
    """
    BenchFolder(folder).refuse_if_finished()
    parts = {count: folder / f"ranks-{count}" for count in counts}
    for count, part in parts.items():
        prepare(Place(count), part)
    for count, part in parts.items():
        say(timed(f"{count} rank{'s' if count > 1 else ''}, of {', '.join(map(str, counts))}"))
        if code := start(count, part):
            return code
    finish(merge([read_document(part) for part in parts.values()]))
    return 0


def part_arguments(arguments: Sequence[str], count: int, folder: Path) -> list[str]:
    """The arguments of one number of ranks, from those of the whole."""
    replaced = ("--scale", "--output", "--ranks")
    kept: list[str] = []
    rest: Iterator[str] = iter(arguments)
    for word in rest:
        if word in replaced:
            next(rest, None)
        elif word.partition("=")[0] not in replaced:
            kept.append(word)
    return [*kept, f"--ranks={count}", f"--output={folder}"]


def merge(documents: Sequence[BenchDocument]) -> BenchDocument:
    """The document of the most ranks, with a row for each number of them.

    Args:
        documents: fewest ranks first.
    """
    fewest = documents[0]
    rows = []
    for each in documents:
        ranks = each.world_size / fewest.world_size
        on = speed_up(fewest, each)
        off = None
        if fewest.cache_off is not None and each.cache_off is not None:
            off = speed_up(fewest.cache_off, each.cache_off)
        rows.append(
            ScaleRow(
                world_size=each.world_size,
                cache_on=each.measured,
                cache_off=each.cache_off,
                speedup_on=on,
                speedup_off=off,
                efficiency_on=on / ranks,
                efficiency_off=None if off is None else off / ranks,
            )
        )
    return documents[-1].model_copy(update={"scale": rows})


def speed_up(fewest: Measured, more: Measured) -> float:
    """How much sooner a video is ready, or how many more videos there are in an hour where replicas share them."""
    return fewest.seconds_per_video.median / more.seconds_per_video.median
