"""Gangs serve a queue and are killed, again and again; every job must end well, once, with the right video.

    python -m tests.soak --kills 200 --seed 0

First each rank of a gang is killed in each phase, then whatever the seed says, at any moment: ranks are killed, frozen
or hung, drivers and nodes are killed. Meanwhile one fault in five comes from outside: the disk of the queue is full,
its file is locked, a driver is stopped, a raylet or the head of the cluster is killed. Prints a line now and then and
one at the end; exit code 1 if anything is off.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import InvalidInput
from launch.queue.records import JobRecord, State
from launch.queue.store import Queue
from tests.soak.gangs import Gang, nodes
from tests.soak.plan import OUTSIDE, RANKS, STEPS, Trouble, describe, share_out, troubles
from tests.soak.troubles import Troubles, small_disk
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.ray_nodes import PLAIN
from tests.support.shell import Shell, hashes

_SEEDS = 4  # different videos
_REPEATS = 10  # of each in one submission
_FEWEST = 8  # jobs that wait, while there is something to kill
_LOOK_SECONDS = 0.5
_SAY_SECONDS = 30
_ENDING_SECONDS = 120
# cfg repeats one rank's additions, so the layout is that of every run here
_LAYOUT = ("--set=parallel.cfg=2",)
_IMPATIENT = (
    "--set=checkpoint.every=2",
    "--set=ray.max_restarts=1000",
    "--set=ray.silence_timeout_seconds=20",
    "--set=runtime.step_timeout_seconds=10",
)


@dataclass(frozen=True)
class Verdict:
    """What became of it all."""

    done: int
    kills: str
    lost: Sequence[str]
    duplicates: Sequence[str]
    wrong: Sequence[str]
    left: Sequence[str]

    def __str__(self) -> str:
        return (
            f"jobs done {self.done}, faults {self.kills}, jobs lost {len(self.lost)}, duplicates "
            f"{len(self.duplicates)}, wrong videos {len(self.wrong)}, processes left {len(self.left)}"
        )

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.duplicates or self.wrong or self.left)


def main(
    kills: Annotated[int, typer.Option(help="How many; the first 16 are each rank in each phase.")] = 200,
    gangs: Annotated[int, typer.Option(help="That serve the queue at the same time, two ranks each.")] = 2,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    stall_minutes: Annotated[float, typer.Option(help="Without a kill or a job done, then it gives up.")] = 10,
) -> None:
    """Kill gangs until the plan is done and every job has ended, then look at everything."""
    with tempfile.TemporaryDirectory(prefix="lockstep-soak-") as folder:
        verdict = soak(Path(folder), kills, gangs, seed, stall_minutes * 60)
    print(verdict, flush=True)
    for what in ("lost", "duplicates", "wrong", "left"):
        for entry in getattr(verdict, what):
            print(f"  {what}: {entry}")
    sys.exit(0 if verdict.is_good else 1)


def soak(folder: Path, kills: int, gangs: int, seed: int, stall_seconds: float) -> Verdict:
    """Run it in a folder of its own."""
    shell = Shell(folder, write_tiny_checkpoint(folder / "model"))
    queue = Queue(folder / "state")
    state = f"--state={queue.folder}"
    wanted = _reference(shell)
    outside = round(kills * OUTSIDE)
    with ExitStack() as closing:
        can_mount = closing.enter_context(small_disk(queue.folder))
        if not can_mount:
            print("no disk can be mounted here, so none will be full: that takes root", flush=True)
        cluster = closing.enter_context(nodes(gangs))
        closing.callback(shell.stop)
        up = ["cluster", "up", *shell.options(*_LAYOUT, *_IMPATIENT), state, f"--ranks={RANKS}"]
        plans = share_out(kills - outside, gangs, seed)
        serving = [
            Gang(shell, number, plan, [*up, f"--ray-address={cluster.address}"]) for number, plan in enumerate(plans)
        ]
        planned = troubles(outside, seed, can_mount)
        meeting = Troubles(
            planned, queue.folder, cluster, lambda: [pid for each in serving for pid in each.servers()], seed
        )
        closing.callback(meeting.end)
        started = said = moved = time.monotonic()
        before: tuple[int, int] = (-1, -1)
        submitted = 0
        jobs: Sequence[JobRecord] = ()
        while True:
            if submitted:
                meeting.go_on(time.monotonic())
            cluster.replace_lost()
            for gang in serving:
                gang.keep_up()
            met = sum(len(gang.met) for gang in serving) + len(meeting.met)
            with suppress(InvalidInput):  # it is locked just now, or away
                jobs = queue.jobs() if submitted else ()
            ended = sum(job.state.is_final for job in jobs)
            now = time.monotonic()
            if now - said > _SAY_SECONDS:
                said = now
                print(f"{now - started:5.0f} s: {met} of {kills} faults, {ended} of {len(jobs)} jobs", flush=True)
            if (met, ended) != before:
                before, moved = (met, ended), now
            if met == kills and meeting.is_done and ended == len(jobs) and jobs:
                break
            if now - moved > stall_seconds:
                print(f"nothing has happened for {stall_seconds:.0f} s", flush=True)
                break
            if met < kills and len(jobs) - ended < _FEWEST:
                submitted += _submit(shell, state, submitted + 1)
            time.sleep(_LOOK_SECONDS)
        left = _end(shell, state)
        logs = {file.name: file.read_text() for file in (*folder.glob("gang-*.log"), *queue.folder.glob("logs/*.log"))}
        verdict = judge(queue.jobs(), serving, wanted, left, meeting.met)
    if not verdict.is_good:
        for name, text in logs.items():
            print(f"== {name}\n{text}", file=sys.stderr)
    return verdict


def _reference(shell: Shell) -> list[list[str]]:
    """The hashes of every video as ranks of this machine make it that nothing disturbs, by seed."""
    seeds = [f"--seed={seed}" for seed in range(_SEEDS)]
    _run(shell, "generate", *_options(shell, *seeds, f"--ranks={RANKS}", "--output=whole.mp4"))
    return [hashes(shell.folder / f"whole-{seed}.mp4") for seed in range(_SEEDS)]


def _submit(shell: Shell, state: str, batch: int) -> bool:
    """Jobs that each make one of the videos. Returns whether the queue took them; a full or locked one refuses."""
    seeds = [f"--seed={seed}" for seed in range(_SEEDS)]
    output = f"--output={shell.folder / 'videos' / f'{batch}.mp4'}"
    again = ["--prompt=x"] * (_REPEATS - 1)
    command = ["submit", *_options(shell, *_IMPATIENT, *seeds, *again, output), state]
    process = shell.lockstep(*command, **PLAIN)
    out, err = process.communicate(timeout=600)
    if process.returncode not in (0, 2):
        raise RuntimeError(f"lockstep submit ended with {process.returncode}\n{out}\n{err}")
    if process.returncode == 2:
        print(err.strip(), flush=True)
    return process.returncode == 0


def _options(shell: Shell, *arguments: str) -> list[str]:
    return [*shell.options(f"--set=sampling.steps={STEPS}", *_LAYOUT), "--prompt=x", *arguments]


def _run(shell: Shell, *arguments: str) -> None:
    process = shell.lockstep(*arguments, **PLAIN)
    out, err = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(f"lockstep {arguments[0]} ended with {process.returncode}\n{out}\n{err}")


def _end(shell: Shell, state: str) -> list[str]:
    """End the gangs as a user does. Returns the processes that are left after a while."""
    _run(shell, "cluster", "down", state)
    deadline = time.monotonic() + _ENDING_SECONDS
    while (left := [*shell.family()]) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    return [f"process {pid}" for pid in left]


def judge(
    jobs: Sequence[JobRecord],
    serving: Sequence[Gang],
    wanted: Sequence[list[str]],
    left: Sequence[str],
    outside: Sequence[Trouble] = (),
) -> Verdict:
    lost = [f"job {job.id} is {job.state}: {job.error}" for job in jobs if job.state is not State.SUCCEEDED]
    made = Counter(video for gang in serving for word, _, video in gang.made if word == "made")
    duplicates = [f"{video} was made {count} times" for video, count in made.items() if count > 1]
    duplicates += [
        f"{video} was begun twice at once" for gang in serving for word, _, video in gang.made if word == "twice"
    ]
    wrong = []
    for job in jobs:
        if job.state is State.SUCCEEDED and hashes(job.video) != wanted[job.options.seeds[0]]:
            wrong.append(f"job {job.id}: {job.video}")
    met = [fault for gang in serving for fault in gang.met]
    return Verdict(
        len(jobs) - len(lost), f"{len(met) + len(outside)} ({describe(met, outside)})", lost, duplicates, wrong, left
    )


if __name__ == "__main__":
    typer.run(main)
