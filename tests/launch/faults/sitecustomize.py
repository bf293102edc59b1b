"""Put on PYTHONPATH by the tests: makes one rank fail in a chosen way at a chosen moment.

LOCKSTEP_FAULT is "RANK WHERE HOW": WHERE a stage ("load"), the index of the denoise step just done ("3"), or
"checkpoint" for all writing of checkpoints; HOW one
of the names in `_FAULTS`. Nothing of this is in the product, which has no test hooks.
"""

import os
import signal
import time


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


_FAULTS = {"raise": _raise, "kill": _kill, "segfault": _segfault, "hang": _hang, "full-disk": _full_disk}


def _inject(rank: str, where: str, how: str) -> None:
    if os.environ.get("RANK", "0") != rank:
        return
    from engine.checkpoints import shard_file
    from launch.phase import PhaseKeeper

    if where == "checkpoint":
        shard_file.sync = lambda path: _FAULTS[how]()
    stage, step = PhaseKeeper.stage, PhaseKeeper.step

    def faulty_stage(self: PhaseKeeper, name: str) -> None:
        stage(self, name)
        if name == where:
            _FAULTS[how]()

    def faulty_step(self: PhaseKeeper, index: int, total: int, action: str) -> None:
        step(self, index, total, action)
        if str(index) == where:
            _FAULTS[how]()

    PhaseKeeper.stage, PhaseKeeper.step = faulty_stage, faulty_step  # type: ignore[method-assign]


if os.environ.get("LOCKSTEP_FAULT"):
    _inject(*os.environ["LOCKSTEP_FAULT"].split())
