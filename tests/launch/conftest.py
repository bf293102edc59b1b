"""A shell for the tests that run commands as a person runs them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.process.running import run
from launch.queue.store import Queue
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.clock import Clock
from tests.support.shell import Refused, Shell, assert_one_line
from tests.support.typed import Command, command


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def shell(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path, tiny_checkpoint)
    yield shell
    shell.stop()


@pytest.fixture
def stub_shell(shell: Shell) -> Shell:
    """A shell whose ranks run the stub engine: for how runs start and end, whatever they make."""
    shell.stub = True
    return shell


@pytest.fixture
def refused(shell: Shell, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must be refused, in the shell's folder; returns its line.

    In this process, for what comes before the weights is the same code; test_refused_input.py has some of their own.
    """
    from launch.commands.app import app

    monkeypatch.chdir(shell.folder)
    for variable in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)

    def line(arguments: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", ["lockstep", *arguments])
        code = run(app)
        out, err = capfd.readouterr()
        assert code == 2, f"exit code {code}\n{out}\n{err}"
        assert_one_line(out, err)
        return err

    return line


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """The queue of the commands that are typed, in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCKSTEP_STATE", str(tmp_path / "state"))
    return Queue(tmp_path / "state")


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command, on the queue in a folder of the test."""
    monkeypatch.setenv("LOCKSTEP_STATE", str(tmp_path / "state"))
    return command(capfd)
