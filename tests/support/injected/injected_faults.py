"""Makes ranks fail in a chosen way at a chosen moment.

LOCKSTEP_FAULT is "RANK WHERE HOW" for one fault, which every process of that rank meets; or "plan FILE" for several,
one for each gang in turn: FILE is a JSON list of [rank, where, how, seconds later], and beside it are written

* FILE.met: when each was met, in seconds since the epoch, one a line;
* FILE.made: "began PROCESS VIDEO" and "made PROCESS VIDEO" for each video that a gang's first rank began and finished,
  "twice PROCESS VIDEO" for one that it began while another process was at it.

or "disk PLAN", where the file PLAN maps the name of a video, without its suffix, to [rank, where]: that rank then
makes NAME.reached beside the plan and waits for NAME.struck, while a disk is made to fail.

WHERE is one of `MOMENTS`, a stage ("load"), the index of the denoise step just done ("3"), or "step" for any of them;
HOW one of the names in `_FAULTS`. Nothing of this is in the product, which has no test hooks.
"""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

MOMENTS = {
    "warmup": "within a step of the warm-up, after the agreement",
    "compute": "within a computed step",
    "skip": "within a skipped step",
    "checkpoint": "a part of a checkpoint is written, and has not got its name",
    "frames": "the first rank begins to write frames into the video file",
    "commit": "all files are written under temporary names",
    "renamed": "the files have their names, and their folder is not on the disk yet",
}


def _raise() -> None:
    raise RuntimeError("injected\nover two lines")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _segfault() -> None:
    os.write(2, b"last words of the process\n")
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang() -> None:
    while True:
        time.sleep(1)


def _full_disk() -> None:
    raise OSError(28, "No space left on device")


def _freeze() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _slow() -> None:
    time.sleep(0.1)


def _driver() -> None:
    """The server of a gang has the same plan as its ranks."""
    plan = os.environ["LOCKSTEP_FAULT"].encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_server = b"\0launch.cluster.serve\0" in (process / "cmdline").read_bytes()
            if is_server and b"LOCKSTEP_FAULT=" + plan in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            pass  # of somebody else, or gone


def _node() -> None:
    os.kill(os.getppid(), signal.SIGKILL)  # the raylet, which has started this worker
    _hang()


_FAULTS = {
    "raise": _raise,
    "kill": _kill,
    "segfault": _segfault,
    "hang": _hang,
    "full-disk": _full_disk,
    "freeze": _freeze,
    "slow": _slow,
    "driver": _driver,
    "node": _node,
}


class _Always:
    """One fault, whenever its moment comes."""

    def __init__(self, rank: str, where: str, how: str) -> None:
        self._rank, self._where, self._how = rank, where, how

    def __call__(self, moment: str) -> None:
        # an actor learns its rank after its start
        if (os.environ.get("RANK", "0"), moment) == (self._rank, self._where):
            _FAULTS[self._how]()


class _InTurn:
    """The faults of a plan: each gang meets the first that none before it has met, and no other."""

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._plan = json.loads(self._file.read_text())
        self._turn = len(self._plan)

    def __call__(self, moment: str) -> None:
        if moment == "join":  # where all ranks wait for one another, so all of a gang count the same
            self._turn = self._count()
        if self._turn >= len(self._plan):
            return
        rank, where, how, seconds = self._plan[self._turn]
        if (os.environ.get("RANK", "0"), moment) != (str(rank), where) or self._count() != self._turn:
            return
        self._turn = len(self._plan)
        if seconds:
            timer = threading.Timer(seconds, self._strike, [how])
            timer.daemon = True
            timer.start()
        else:
            self._strike(how)

    def began(self, video: Path) -> None:
        """To be said before :meth:`made`; finds out whether another process, of whatever gang, is at the same video."""
        others = set()
        for file in self._file.parent.glob("*.made"):
            for word, process, of in (line.split(" ", 2) for line in file.read_text().splitlines()):
                if of == str(video):
                    (others.add if word == "began" else others.discard)(process)
        self._say("twice" if any(map(_lives, others)) else "began", video)

    def made(self, video: Path) -> None:
        self._say("made", video)

    def _say(self, word: str, video: Path) -> None:
        with Path(f"{self._file}.made").open("a") as file:
            file.write(f"{word} {os.getpid()} {video}\n")

    def _strike(self, how: str) -> None:
        with self._met.open("a") as file:
            file.write(f"{time.time()}\n")
        _FAULTS[how]()

    @property
    def _met(self) -> Path:
        return Path(f"{self._file}.met")

    def _count(self) -> int:
        return len(self._met.read_text().splitlines()) if self._met.exists() else 0


class _OnDisk:
    """Stops at the moment of each video until a disk has been made to fail."""

    def __init__(self, plan: str) -> None:
        self._folder = Path(plan).parent
        self._plan = json.loads(Path(plan).read_text())
        self.video = ""

    def __call__(self, moment: str) -> None:
        rank, where = self._plan.get(self.video, (None, None))
        if (os.environ.get("RANK", "0"), moment) != (str(rank), where):
            return
        struck = self._folder / f"{self.video}.struck"
        if struck.exists():
            return
        (self._folder / f"{self.video}.reached").touch()
        while not struck.exists():
            time.sleep(0.01)


def _lives(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def _watch(reach: "_Always | _InTurn | _OnDisk") -> None:
    """Have ``reach`` called at every moment of this process, should it be a rank."""
    from launch.process.phase import PhaseKeeper

    stage, doing, step = PhaseKeeper.stage, PhaseKeeper.doing, PhaseKeeper.step
    watched: list[str] = []

    def watched_stage(self: PhaseKeeper, name: str) -> None:
        stage(self, name)
        if not watched:  # the first stage is joining, by which time the engine is imported
            watched.append(name)
            _watch_engine(reach)
        reach(name)

    def watched_doing(self: PhaseKeeper, name: str) -> None:
        doing(self, name)
        if name == "write":
            reach("frames")

    def watched_step(self: PhaseKeeper, index: int, total: int, action: str) -> None:
        step(self, index, total, action)
        reach(str(index))
        reach("step")

    methods = {"stage": watched_stage, "doing": watched_doing, "step": watched_step}
    for name, method in methods.items():
        setattr(PhaseKeeper, name, method)


def _watch_engine(reach: "_Always | _InTurn | _OnDisk") -> None:
    from dicache.controller import Controller
    from engine.checkpoints import shard_file
    from engine.engine import Engine
    from engine.storage import files

    decide, commit, sync = Controller.decide, files.StagedFiles.commit, files.sync

    def watched_decide(self: Controller, *arguments: Any) -> Any:
        plans = decide(self, *arguments)
        for decision in (decision for plan in plans.values() for decision in plan.decisions):
            reach(decision.action)
        return plans

    def watched_commit(self: files.StagedFiles) -> None:
        if "job.json" not in {path.name for path in self._temporaries}:  # which is written before the work
            reach("commit")
        commit(self)

    def sync_of_checkpoints(path: Path) -> None:
        reach("checkpoint")
        sync(path)

    def sync_of_outputs(path: Path) -> None:
        if path.is_dir() and not path.name.endswith(".checkpoint"):
            reach("renamed")
        sync(path)

    if isinstance(reach, _InTurn) and os.environ.get("RANK") == "0":
        generate = Engine.generate

        def watched_generate(self: Engine, request: Any, output: Path, *others: Any, **named: Any) -> Any:
            reach.began(output)
            result = generate(self, request, output, *others, **named)
            reach.made(output)
            return result

        Engine.generate = watched_generate  # type: ignore[method-assign]
    if isinstance(reach, _OnDisk):
        generate_on_disk = Engine.generate

        def generate_named(self: Engine, request: Any, output: Path, *others: Any, **named: Any) -> Any:
            reach.video = output.stem
            return generate_on_disk(self, request, output, *others, **named)

        Engine.generate = generate_named  # type: ignore[method-assign]
    Controller.decide, files.StagedFiles.commit = watched_decide, watched_commit  # type: ignore[method-assign]
    files.sync, shard_file.sync = sync_of_outputs, sync_of_checkpoints


def install() -> None:
    """Have this process, should it be a rank, meet what LOCKSTEP_FAULT says."""
    first, *others = os.environ["LOCKSTEP_FAULT"].split()
    plans = {"plan": _InTurn, "disk": _OnDisk}
    _watch(plans[first](*others) if first in plans else _Always(first, *others))
