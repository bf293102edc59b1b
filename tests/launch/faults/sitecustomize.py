"""Put on PYTHONPATH by the tests: makes one rank fail in a chosen way at a chosen moment.

LOCKSTEP_FAULT is "RANK WHERE HOW": WHERE a stage ("load"), the index of the denoise step just done ("3"), or
"checkpoint" for all writing of checkpoints; HOW one
of the names in `_FAULTS`. Nothing of this is in the product, which has no test hooks.
"""

import os
import signal
import time
from pathlib import Path


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


def _in_turn() -> None:
    """Killed at first, then frozen, then hanging, then in good health; the file tells one process from the next."""
    turns = Path("turns")
    before = turns.read_text() if turns.exists() else ""
    turns.write_text(before + "x")
    if len(before) < 3:
        (_kill, _freeze, _hang)[len(before)]()


_FAULTS = {
    "raise": _raise,
    "kill": _kill,
    "segfault": _segfault,
    "hang": _hang,
    "full-disk": _full_disk,
    "in-turn": _in_turn,
}


def _inject(rank: str, where: str, how: str) -> None:
    from launch.phase import PhaseKeeper

    def fault() -> None:  # an actor learns its rank after its start
        if os.environ.get("RANK", "0") == rank:
            _FAULTS[how]()

    if where == "checkpoint" and os.environ.get("RANK", "0") == rank:
        from engine.checkpoints import shard_file

        shard_file.sync = lambda path: fault()
    stage, step = PhaseKeeper.stage, PhaseKeeper.step

    def faulty_stage(self: PhaseKeeper, name: str) -> None:
        stage(self, name)
        if name == where:
            fault()

    def faulty_step(self: PhaseKeeper, index: int, total: int, action: str) -> None:
        step(self, index, total, action)
        if str(index) == where:
            fault()

    PhaseKeeper.stage, PhaseKeeper.step = faulty_stage, faulty_step  # type: ignore[method-assign]


if os.environ.get("LOCKSTEP_FAULT"):
    _inject(*os.environ["LOCKSTEP_FAULT"].split())
