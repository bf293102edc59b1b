"""Other checkouts of this project."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import InvalidInput
from launch.bench.turns.build import find_build, this_build
from tests.support.small_model import ROOT

PROJECT = '[project]\nname = "lockstep-video"\nversion = "9.8"\n'


def checkout(folder: Path, project: str = PROJECT, takes_turns: bool = True) -> Path:
    turns = folder / "launch" / "bench" / "turns"
    turns.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(project)
    if takes_turns:
        (turns / "line.py").write_text("PROTOCOL = 1\n")
    return folder


def test_what_is_no_build_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name in ("none", "file"):
        with pytest.raises(InvalidInput, match=f"--against-build is .*{name}', which is no folder"):
            find_build(tmp_path / name)
    projects = {"other": PROJECT.replace("lockstep-video", "black"), "damaged": "[[", "list": "project = [1]\n"}
    for name in ("empty", *projects):
        if name != "empty":
            checkout(tmp_path / name, projects[name])
        with pytest.raises(InvalidInput, match=r"no pyproject\.toml of lockstep-video"):
            find_build(tmp_path / name)
    with pytest.raises(InvalidInput, match=r"before builds could take turns .* use --compare"):
        find_build(checkout(tmp_path / "old", takes_turns=False))


def test_its_interpreter_version_and_commit(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "build")
    assert find_build(folder).python == sys.executable
    own = folder / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    found = find_build(folder)
    assert (found.python, found.version, found.commit) == (str(own), "9.8", None)
    assert found.command("bench") == [str(own), "-m", "launch", "bench"]
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "pyproject.toml", "launch"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *arguments], check=True)
    commit = find_build(folder).commit
    assert commit and len(commit) == 40
    (folder / "pyproject.toml").write_text(PROJECT + "# changed\n")
    assert find_build(folder).commit == f"{commit}+changes"
    inside = checkout(folder / "copies" / "inside")
    assert find_build(inside).commit is None, "a copy inside of a repository is none of its commits"
    assert this_build().folder == ROOT


def test_its_processes_are_no_ranks_and_import_it(tmp_path: Path) -> None:
    build = find_build(checkout(tmp_path / "build"))
    inherited = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1", "TORCHELASTIC_ERROR_FILE": "f", "GROUP_RANK": "0"}
    inherited |= {"LOCKSTEP_PARENT_PID": "7", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}/other"}
    assert build.environment(inherited) == {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{build.folder}{os.pathsep}/other",
        "PYTHONSAFEPATH": "1",
    }
