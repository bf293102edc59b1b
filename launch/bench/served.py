"""A bench that another build leads: it does what it is told to, and nothing between (launch.bench.turns.line)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from engine.errors import RankFailure
from engine.progress import Progress
from launch.bench.job import BenchJob, prepare_bench
from launch.bench.options import BenchOptions
from launch.bench.reading import JSON_FILE
from launch.bench.run import gather
from launch.bench.start import import_engine, start_rank
from launch.bench.turns.build import this_build
from launch.bench.turns.line import Caller
from launch.bench.writing import to_json
from launch.process.signals import die_with_parent
from launch.ranks.place import find_place
from launch.ranks.program import run_on_ranks

if TYPE_CHECKING:
    from launch.bench.records import VideoRecord


def serve_bench(options: BenchOptions, ranks: int | None, address: str) -> int:
    """Measure a configuration as the build at ``address`` says. Returns the exit code.

    Raises:
        InvalidInput: the work is refused, or nobody has ordered it.
    """
    caller = Caller.of(address)
    place = find_place(None, ranks)
    if place.is_launcher:
        die_with_parent(signal.SIGTERM)  # it then ends its ranks, and takes its files with it
    prepare, work = partial(prepare_bench, options), partial(run_served, caller)
    return run_on_ranks(place, prepare, work, lambda *nothing: None, partial(_once_told, caller))


@contextmanager
def _once_told(caller: Caller, job: BenchJob) -> Iterator[None]:
    """Around the work of the ranks: it begins when the build that measures says so."""
    line = caller.call(folder=str(this_build().folder))
    if (order := line.receive()) != {"do": "load"}:
        raise RankFailure(f"The build that measures this one orders {order}, where it should have this one load.")
    yield
    line.close()


def run_served(caller: Caller, job: BenchJob, progress: Progress, rank: int) -> None:
    """One rank of it; collective: every rank calls it.

    Raises:
        RankFailure: the measuring build has ended, or gives an order that this one does not know.
    """
    with job.folder.hold() if rank == 0 else nullcontext():
        line = caller.call() if rank == 0 else None
        engine, start = start_rank(job.config, job.notes, progress, rank, import_engine())
        from launch.bench.rounds import Rounds
        from launch.bench.turns.relay import Relay, of_the_first

        relay = Relay(engine.model.ranks, job.config.runtime, progress)
        prompts = range(len(job.variants[0].requests))
        rounds = Rounds(engine, job, progress)
        videos: list[VideoRecord] = []
        done = "load"
        while done != "write":
            if line is not None:
                line.send(done=done)
            progress.stage("wait for its turn")
            order = relay.from_first(line.receive if line is not None else of_the_first)
            match order:
                case {"do": "warm_up"}:
                    videos += rounds.warm_up()
                case {"do": "video", "round": int(number), "prompt": int(prompt)} if prompt in prompts:
                    videos += rounds.take_turns(number, prompt)
                case {"do": "write"}:
                    if (document := gather(job, engine, start, videos)) is not None:
                        job.folder.write({JSON_FILE: to_json(document)})
                case _:
                    raise RankFailure(f"The build that measures this one orders {order}, which this one does not know.")
            done = order["do"]
        if line is not None:
            line.send(done=done)
        progress.done()
        engine.close()
