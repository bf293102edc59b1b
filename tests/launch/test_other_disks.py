"""Full or read-only disks that a run does not need: for temporary files, and for the file that stderr goes to."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.progress import Progress
from launch.process import quiet
from launch.process.phase import PhaseKeeper
from launch.process.signals import PARENT_PID
from launch.screens.progress import display_on


def test_progress_on_a_full_disk_does_not_end_the_run() -> None:
    with open("/dev/full", "w", buffering=1) as full:
        display = display_on(full)
        display.stage("load")
        display.note("a line")
        display.step(0, 2, "compute")
        display.close()
        full.flush = lambda: None  # type: ignore[method-assign]  # what was not written is thrown away
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_the_phase_of_a_rank_is_kept_in_mind_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    (tmp_path / "phase").symlink_to("/dev/full")
    keeper = PhaseKeeper(Progress())
    keeper.stage("load")
    assert keeper.phase == "load"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "/proc/error.json")
    keeper = PhaseKeeper(Progress())
    keeper.stage("load")
    assert keeper.phase == "load"


def test_streams_of_a_rank_go_nowhere_where_no_file_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "/proc/error.json")
    monkeypatch.setenv(PARENT_PID, "1")
    with open(os.devnull, "w") as out, open(os.devnull, "w") as err, ExitStack() as closing:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        for stream in quiet.own_streams(closing):
            stream.write("x")
