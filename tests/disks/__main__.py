"""A disk is filled, made read-only, unplugged and slowed at random moments of runs; every video must come out right.

    python -m tests.disks --moments 90 --seed 0

First two ranks make a list of videos, then a gang the jobs of a queue. Each video meets one fault, at a moment and of a
kind that the seed says, and the disk is well again a little later. Prints a line for each, and one at the end; exit
code 1 if a video is missing or is not bit for bit that of an undisturbed run, or if anything is left. Needs to mount.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from launch.queue.store import Queue
from tests.disks.disk import Disk, can_mount, small_disk
from tests.disks.plan import RANKS, DiskFault, faults
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.ray_nodes import PLAIN
from tests.support.shell import Shell, finish, hashes

_LIST = 10  # videos of one run
_STALL_SECONDS = 300.0
_LOOK_SECONDS = 0.02
_COMMON = ("--set=checkpoint.every=2", "--set=parallel.cfg=2", "--prompt=x")


def main(
    moments: Annotated[int, typer.Option(help="Videos, and faults, for the ranks and for the gang each.")] = 30,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    only: Annotated[str, typer.Option(help="ranks or gang; both by default.")] = "",
) -> None:
    """Let a disk fail, and look at every video."""
    if not can_mount():
        sys.exit("this process may not mount: run it as root, or under `unshare --map-root-user --mount`")
    with tempfile.TemporaryDirectory(prefix="lockstep-disks-") as name:
        folder = Path(name)
        shell = Shell(folder, write_tiny_checkpoint(folder / "model"))
        try:
            wrong = strike_ranks(shell, moments, seed) if only != "gang" else []
            wrong += strike_gang(shell, moments, seed + 1) if only != "ranks" else []
        finally:
            shell.stop()
    for line in wrong:
        print(f"  {line}")
    print(f"{len(wrong)} of them lost, wrong or left behind", flush=True)
    sys.exit(1 if wrong else 0)


def strike_ranks(shell: Shell, moments: int, seed: int) -> list[str]:
    """Two ranks make lists of videos. Returns what is wrong."""
    wanted = reference(shell)
    wrong: list[str] = []
    plan = list(faults(moments, seed))
    for first in range(0, moments, _LIST):
        part = plan[first : first + _LIST]
        folder = shell.folder / f"ranks-{first}"
        with small_disk(folder) as disk:
            seeds = [f"--seed={number}" for number in range(len(part))]
            output = disk.path / ("out.mp4" if len(part) > 1 else "out-0.mp4")
            run = shell.generate(
                *_COMMON,
                *seeds,
                f"--ranks={RANKS}",
                f"--output={output}",
                f"--fallback={folder / 'fallback'}",
                fault=f"disk {write_plan(folder, part)}",
                **disk.environment,
            )
            wrong += strike_all(disk, folder, part, _ended(run))
            _, err = run.communicate(timeout=_STALL_SECONDS)
            if run.returncode:
                wrong.append(f"exit code {run.returncode}: {err}")
            wrong += judge(disk, folder, len(part), wanted)
    return wrong


def strike_gang(shell: Shell, moments: int, seed: int) -> list[str]:
    """A gang makes the jobs of a queue. Returns what is wrong."""
    wanted = reference(shell)
    folder = shell.folder / "gang"
    part = list(faults(moments, seed))
    with small_disk(folder) as disk:
        queue = Queue(folder / "state")
        state = f"--state={queue.folder}"
        fault = f"disk {write_plan(folder, part)}"
        up = ["cluster", "up", *shell.options("--set=parallel.cfg=2"), state, f"--ranks={RANKS}"]
        finish(shell.lockstep(*up, fault=fault, **PLAIN, **disk.environment))
        try:
            seeds = [f"--seed={number % _LIST}" for number in range(moments)]
            output = disk.path / ("out.mp4" if moments > 1 else "out-0.mp4")
            finish(shell.lockstep("submit", *shell.options(*_COMMON, *seeds, f"--output={output}"), state))
            wrong = strike_all(disk, folder, part, lambda: all(job.state.is_final for job in queue.jobs()))
            deadline = time.monotonic() + _STALL_SECONDS
            while not all(job.state.is_final for job in queue.jobs()) and time.monotonic() < deadline:
                time.sleep(0.5)
            wrong += [f"job {job.id}: {job.state} {job.error}" for job in queue.jobs() if job.state != "succeeded"]
        finally:
            down = shell.lockstep("cluster", "down", state)
            down.communicate(timeout=120)
        wrong += judge(disk, folder, moments, wanted)
        if wrong:
            for log in queue.folder.glob("logs/*.log"):
                print(log.read_text(), file=sys.stderr)
    return wrong


def reference(shell: Shell) -> list[list[str]]:
    """Hashes of latents and frames of undisturbed runs, by seed."""
    if not (shell.folder / "whole-1.mp4").exists():
        seeds = [f"--seed={number}" for number in range(_LIST)]
        finish(shell.generate(*_COMMON, *seeds, f"--ranks={RANKS}", "--output=whole.mp4"))
    return [hashes(shell.folder / f"whole-{number}.mp4") for number in range(_LIST)]


def write_plan(folder: Path, plan: Sequence[DiskFault]) -> Path:
    """A file for tests/support/injected: the rank and the moment of each video's fault, by the video's name."""
    file = folder / "plan.json"
    file.write_text(json.dumps({f"out-{number}": [fault.rank, fault.moment] for number, fault in enumerate(plan)}))
    return file


def strike_all(disk: Disk, folder: Path, plan: Sequence[DiskFault], has_ended: Callable[[], bool]) -> list[str]:
    """Let the disk fail as each video comes to its moment. Returns what did not come."""
    met: Counter[str] = Counter()
    waiting = dict(enumerate(plan))
    deadline = time.monotonic() + _STALL_SECONDS
    while waiting:
        # a gang gives a job back for which there is no room, and takes the next one
        number = next((each for each in waiting if (folder / f"out-{each}.reached").exists()), None)
        if number is None:
            if time.monotonic() > deadline or has_ended():
                return [f"video {number} did not come to {fault}" for number, fault in waiting.items()]
            time.sleep(_LOOK_SECONDS)
            continue
        fault, deadline = waiting.pop(number), time.monotonic() + _STALL_SECONDS
        kind = disk.strike(fault.kind)
        met[kind] += 1
        (folder / f"out-{number}.struck").touch()
        with _healed(disk):
            time.sleep(fault.seconds)
        print(f"video {number}: {kind} at {fault.moment} of rank {fault.rank} for {fault.seconds:g} s", flush=True)
    print(", ".join(f"{kind} {count}" for kind, count in met.items()), flush=True)
    return []


def _ended(process: subprocess.Popen[str]) -> Callable[[], bool]:
    return lambda: process.poll() is not None


@contextmanager
def _healed(disk: Disk) -> Iterator[None]:
    try:
        yield
    finally:
        disk.heal()


def judge(disk: Disk, folder: Path, count: int, wanted: Sequence[Sequence[str]]) -> list[str]:
    """What is not as after undisturbed runs."""
    wrong = []
    for number in range(count):
        video = disk.path / f"out-{number}.mp4"
        if not video.exists() or not video.with_suffix(".json").exists():
            wrong.append(f"{video.name} is lost")
        elif hashes(video) != wanted[number % _LIST]:
            wrong.append(f"{video.name} is another video")
    names = {f"out-{number}{suffix}" for number in range(count) for suffix in (".mp4", ".json")}
    wrong += [f"{path.name} is left" for path in disk.path.iterdir() if path.name not in names]
    below = subprocess.run(["find", str(folder / "fallback"), "-type", "f"], capture_output=True, text=True).stdout
    wrong += [f"{path} is left" for path in below.split()]
    return wrong


if __name__ == "__main__":
    typer.run(main)
