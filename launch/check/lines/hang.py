"""A rank that hangs, and whom the error names."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from contextlib import suppress

import psutil

from launch.check.commands import start
from launch.check.finding import Finding, falls_short, judged, not_here
from launch.check.job import CONFIG
from launch.check.limits import HANG_SECONDS
from launch.check.site import Site
from launch.check.video import OVERRIDES, PROMPT

_STEP_TIMEOUT_SECONDS = 5
_STOPPED = 1
_DENOISING = re.compile(r"step \d+ of")


def stopped_rank(site: Site) -> Finding:
    """Two ranks make a video, and after a tenth of its steps one of them is stopped (SIGSTOP): the run ends, with an
    error that names it."""
    if site.local_ranks == 1:
        return not_here("there is one rank on this machine: it has nobody to wait for it")
    if site.kind == "cuda":
        import torch

        if torch.cuda.device_count() < 2:
            return not_here("this process sees one card")
    sets = [*OVERRIDES, f"runtime.device={site.kind}", f"runtime.step_timeout_seconds={_STEP_TIMEOUT_SECONDS}"]
    sets += ["sampling.steps=100", "parallel.cfg=2", "cache.method=none"]
    video = site.folder / "stopped.mp4"
    arguments = ["generate", str(CONFIG), f"--prompt={PROMPT}", f"--output={video}", "--ranks=2"]
    process = start(site, ["-m", "launch", *arguments, *(f"--set={each}" for each in sets)])
    try:
        return _stop_and_see(process, HANG_SECONDS.on(site.kind))
    finally:
        _end(process)


def _stop_and_see(process: subprocess.Popen[str], limit: float) -> Finding:
    lines: list[str] = []
    begun = threading.Event()
    reader = threading.Thread(target=_read, args=(process, lines, begun), daemon=True)
    reader.start()
    while not begun.wait(0.05):
        if process.poll() is not None:
            return falls_short("", f"the run ended before a step: {lines[-1] if lines else 'without a word'}")
    stopped = _rank(process, _STOPPED)
    if stopped is None:
        return falls_short("", f"rank {_STOPPED} of the run was not found among its processes")
    os.kill(stopped, signal.SIGSTOP)
    since = time.monotonic()
    process.wait()  # for no longer than the line has
    seconds = time.monotonic() - since
    reader.join(1.0)
    said = next((line for line in reversed(lines) if line.startswith("lockstep: ")), "no line")
    figure = f"ended after {seconds:.0f} s: {said.removeprefix('lockstep: ')}"
    named = re.search(r"rank (\d+)", said)
    if named is None or int(named.group(1)) != _STOPPED:
        return falls_short(figure, f"rank {_STOPPED} was stopped, and the error does not name it")
    slow = [f"the run ended after {seconds:.0f} s, above {limit:g}: {HANG_SECONDS.reason}"] if seconds > limit else []
    return judged([], figure, f"names rank {_STOPPED}, within {limit:g} s", slow)


def _read(process: subprocess.Popen[str], lines: list[str], begun: threading.Event) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line.strip())
        if _DENOISING.search(line):
            begun.set()


def _rank(process: subprocess.Popen[str], rank: int) -> int | None:
    """The process of a rank among those that the run has started."""
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):
            if child.environ().get("RANK") == str(rank):
                return int(child.pid)
    return None


def _end(process: subprocess.Popen[str]) -> None:
    """End the run and all its ranks, stopped ones too."""
    children = []
    with suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children:
        with suppress(psutil.Error):
            child.kill()
    process.wait()
