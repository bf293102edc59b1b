"""One program: a process finds out by itself whether it is a rank or starts the ranks."""

import subprocess
import sys

import pytest

from engine.errors import InvalidInput
from launch.process import signals
from launch.process.signals import is_rank
from launch.ranks import place as places
from launch.ranks.place import Launcher, find_place
from launch.ranks.torchrun import escape_for_elastic
from parallel.place import Place
from tests.support.shell import Shell, untimed

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "TORCHELASTIC_RUN_ID", signals.PARENT_PID)
RANK = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"}
TORCHRUN = RANK | {"TORCHELASTIC_RUN_ID": "x"}
OURS = TORCHRUN | {signals.PARENT_PID: "1"}
HERE = Place(4, 1, 2, 2)


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the process became, in the place of what that does to its signals."""
    done: list[str] = []
    monkeypatch.setattr(places, "become_rank", lambda: done.append("rank"))
    monkeypatch.setattr(places, "raise_when_interrupted", lambda: done.append("launcher"))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return done


@pytest.mark.parametrize(
    ("environment", "launcher", "expected", "becomes"),
    [
        ({}, None, Place(), []),
        ({}, Launcher.RAY, Place(), []),
        (RANK, None, Place(), []),  # left over in a shell, or another program's
        (RANK, Launcher.LOCAL, Place(), []),
        (RANK, Launcher.TORCHRUN, HERE, ["rank"]),
        (TORCHRUN, None, HERE, []),
        (TORCHRUN, Launcher.TORCHRUN, HERE, ["rank"]),
        (TORCHRUN, Launcher.LOCAL, Place(), ["launcher"]),
        (TORCHRUN, Launcher.RAY, Place(), ["launcher"]),
        (OURS, None, HERE, []),
        (OURS, Launcher.LOCAL, HERE, []),  # as the launcher was told
    ],
)
def test_who_is_a_rank(
    environment: dict[str, str],
    launcher: Launcher | None,
    expected: Place,
    becomes: list[str],
    became: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_place(launcher) == expected
    assert became == becomes
    assert is_rank() == (environment in (TORCHRUN, OURS))


def test_torchrun_knows_how_many_ranks_there_are(became: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert find_place(ranks=4) == HERE
    with pytest.raises(InvalidInput, match="--ranks is 3, but torchrun has started 4: leave --ranks out"):
        find_place(ranks=3)
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(InvalidInput, match="WORLD_SIZE is 'many' in the environment"):
        find_place()


def test_torchrun_that_is_not_there_is_shown_the_same_arguments(
    became: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["lockstep", "resume", "a b", "--launcher=torchrun", "--set=x=$y"])
    with pytest.raises(InvalidInput) as refused:
        find_place(Launcher.TORCHRUN, 2)
    command = "torchrun --nproc-per-node 2 -m launch resume 'a b' --launcher=torchrun '--set=x=$$y'"
    assert f"type `{command}`." in str(refused.value)
    assert became == []


def test_elastic_substitutes_nothing_in_escaped_arguments() -> None:
    from torch.distributed.elastic.utils import macros

    arguments = ["$$", "${local_rank}", "$local_rank", "plain"]
    assert macros.substitute(arguments, "7") != arguments
    assert macros.substitute(escape_for_elastic(arguments), "7") == arguments


@pytest.mark.parametrize("command", ["generate", "resume", "sweep"])
def test_the_old_spelling_works_with_a_hint_on_the_first_rank(command: str, shell: Shell) -> None:
    def run(**environment: str) -> list[str]:
        process = shell.start([sys.executable, "-m", f"launch.{command}", "nowhere"], **environment)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        return untimed(err)

    hint, refusal = run()
    assert hint.startswith("lockstep: ") and f"-m launch {command}" in hint
    assert refusal.startswith("lockstep: ")
    assert run(RANK="0", WORLD_SIZE="2")[0] == hint
    assert hint not in run(RANK="1", WORLD_SIZE="2")


def test_the_version_imports_no_torch() -> None:
    code = "import sys; from launch.commands.show import describe_versions; print(describe_versions());"
    code += "print('torch' in sys.modules)"
    line, imported = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert imported == "False"
    assert line.startswith("lockstep-video ") and ", torch 2" in line and ", diffusers 0" in line


def test_the_version_is_an_option(shell: Shell) -> None:
    process = shell.lockstep("--version")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err, out.count("\n")) == (0, "", 1)
    assert out.startswith("lockstep-video ")


def test_a_library_that_swallows_an_interruption_does_not_hide_it() -> None:
    code = """
import os, signal, sys
from launch.process.signals import Interrupted, raise_when_interrupted
from launch.ranks.rank import run_part
from parallel.place import Place

def work(progress):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # as some imports do
        pass
    raise RuntimeError("a consequence")

raise_when_interrupted()
try:
    run_part(work, lambda outcome, stream: None, Place(1, 0))
except Interrupted as interrupted:
    print(interrupted, interrupted.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, untimed(done.stderr)) == ("interrupted 130\n", [])
