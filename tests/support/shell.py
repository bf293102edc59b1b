"""Commands run as a person runs them: in processes of their own, in a folder of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.small_model import CONFIG, ROOT

Refused = Callable[[list[str]], str]  # the line with which a command is refused
INJECTED = Path(__file__).parent / "injected"


@dataclass
class Shell:
    """Starts Lockstep with a small checkpoint, and knows every process that came of it."""

    folder: Path
    model: Path
    stub: bool = False  # ranks run the stub engine, which has no model and is quick to import
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def lockstep(self, *arguments: str, fault: str = "", **environment: str) -> subprocess.Popen[str]:
        return self.start([sys.executable, "-m", "launch", *arguments], fault, **environment)

    def generate(self, *arguments: str, fault: str = "", **environment: str) -> subprocess.Popen[str]:
        return self.lockstep("generate", *self.options(*arguments), fault=fault, **environment)

    def torchrun(self, ranks: int, *arguments: str, fault: str = "", **environment: str) -> subprocess.Popen[str]:
        return self.torchrun_of(ranks, "launch", "generate", *self.options(*arguments), fault=fault, **environment)

    def torchrun_of(
        self, ranks: int, program: str, *arguments: str, fault: str = "", **environment: str
    ) -> subprocess.Popen[str]:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        return self.start([*torchrun, "-m", program, *arguments], fault, **environment)

    def options(self, *arguments: str) -> list[str]:
        small = ["sampling.steps=8", "sampling.frames=5", "sampling.height=32", "sampling.width=32"]
        sets = [f"--set={value}" for value in (f"model.path={self.model}", "runtime.device=cpu", *small)]
        return [str(CONFIG), *sets, *arguments]

    def start(
        self,
        command: list[str],
        fault: str = "",
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        **environment: str,
    ) -> subprocess.Popen[str]:
        injects = fault or self.stub or environment.keys() & {"LOCKSTEP_SIMULATED_CUDA", "LOCKSTEP_HOST_BYTES"}
        path = [str(ROOT), *([str(INJECTED)] if injects else [])]
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")},
            "PYTHONPATH": os.pathsep.join(path),
            "LOCKSTEP_FAULT": fault,
            "LOCKSTEP_STUB_ENGINE": "1" if self.stub else "",
            "OMP_NUM_THREADS": "1",
            # the state folder, which is a user's own by default
            "XDG_STATE_HOME": str(self.folder.with_name(f"{self.folder.name}-state")),
            # every descendant inherits this, so none can hide, whatever its parent or session
            "LOCKSTEP_TEST_FAMILY": str(self.folder),
            **environment,
        }
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def family(self) -> dict[int, int | None]:
        """Living processes that a command of this shell started, as pid -> rank."""
        found: dict[int, int | None] = {}
        for process in psutil.process_iter(["environ"]):
            variables = process.info["environ"] or {}  # None of a process that may not be looked into, or has ended
            if variables.get("LOCKSTEP_TEST_FAMILY") == str(self.folder):
                found[process.pid] = int(variables["RANK"]) if "RANK" in variables else None
        return found

    def ranks(self) -> dict[int, int]:
        """Living ranks, as rank -> pid."""
        return {rank: pid for pid, rank in self.family().items() if rank is not None}

    def await_line(self, process: subprocess.Popen[str], line: str) -> None:
        """Wait until the command has written a line to stderr that begins with ``line``."""
        assert process.stderr is not None
        for written in process.stderr:
            if without_time(written).startswith(line):
                return
        raise AssertionError(f"the command ended without writing {line!r}: {process.stdout and process.stdout.read()}")

    def await_nobody(self, seconds: float) -> None:
        """Fail if a process is left after that time."""
        deadline = time.monotonic() + seconds
        while family := self.family():
            assert time.monotonic() < deadline, f"left behind: {family}"
            time.sleep(0.05)

    def stop(self) -> None:
        for pid in self.family():
            os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.communicate()


def await_file(path: Path, process: subprocess.Popen[str], seconds: float) -> None:
    """Wait for a file that the command makes; fail if it ends before, or takes longer."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def without_time(line: str) -> str:
    """A line of progress without the time of day that it begins with."""
    return re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line.strip())


def untimed(err: str) -> list[str]:
    """The lines that are no progress."""
    return [line for line in err.splitlines() if without_time(line) == line.strip()]


def finish(process: subprocess.Popen[str], expected: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == expected, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def actions(report: dict) -> list[tuple[int, str, str]]:
    return [(row["step"], row["branch"], row["action"]) for row in report["steps"]]


def report_of(video: Path) -> dict:
    return json.loads(video.with_suffix(".json").read_text())


def hashes(video: Path) -> list[str]:
    output = report_of(video)["output"]
    return [output["latents_sha256"], output["frames_sha256"]]


def assert_one_line(out: str, err: str) -> None:
    """What a refused command has printed: one line, beside the one that it starts, should that take a second."""
    assert out == ""
    err = re.sub(r"^\S+ \S+ lockstep [a-z ]+: starting\n", "", err)
    assert err.startswith("lockstep: ") and err.count("\n") == 1 and err[-2] in ".?", err
    assert "Traceback" not in err
