"""A build of this project: a checkout with its interpreter, which can be run beside this one."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InvalidInput
from engine.execution.versions import describe_versions
from launch.process.signals import PARENT_PID

_PACKAGE = "lockstep-video"
_SPEAKS = Path("launch", "bench", "turns", "line.py")
"""What a build has that can take turns."""
# what makes a process a rank, of which the other build has its own
_OF_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", PARENT_PID)
_OF_TORCHRUN = ("GROUP_", "ROLE_", "TORCHELASTIC_")


@dataclass(frozen=True)
class Build:
    """Where a build is, and what it is."""

    folder: Path
    version: str
    commit: str | None
    """Of git, with "+changes" where files differ from it; None where the folder is no checkout of git's."""
    python: str
    """The interpreter that runs it."""

    def described(self) -> dict[str, Any]:
        """For results."""
        return {"folder": str(self.folder), "version": self.version, "commit": self.commit}

    def command(self, *arguments: str) -> list[str]:
        """What runs `lockstep` of this build."""
        return [self.python, "-m", "launch", *arguments]

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Of its processes: they import this build, wherever they stand and whatever is installed, and are no ranks of
        ours."""
        path = [entry for entry in inherited.get("PYTHONPATH", "").split(os.pathsep) if entry]
        others = [entry for entry in path if Path(entry).resolve() != _own_root()]
        kept = {
            name: value
            for name, value in inherited.items()
            if name not in _OF_RANKS and not name.startswith(_OF_TORCHRUN)
        }
        return kept | {"PYTHONPATH": os.pathsep.join([str(self.folder), *others]), "PYTHONSAFEPATH": "1"}


def find_build(folder: Path) -> Build:
    """The build in a folder, with the interpreter of its own `.venv` if it has one.

    Raises:
        InvalidInput: there is none, or one from before builds could take turns.
    """
    named = f"--against-build is {str(folder)!r}"
    root = folder.resolve()
    if not folder.is_dir():
        raise InvalidInput(f"{named}, which is no folder: name a checkout of this project.")
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        is_ours, version = project["name"] == _PACKAGE, str(project["version"])
    except (OSError, ValueError, KeyError, TypeError):
        is_ours, version = False, ""
    if not is_ours or not (root / "launch").is_dir():
        raise InvalidInput(f"{named}, which has no pyproject.toml of {_PACKAGE}: name a checkout of this project.")
    if not (root / _SPEAKS).is_file():
        raise InvalidInput(
            f"{named}, a build from before builds could take turns ({_SPEAKS} is missing): measure it by itself, and "
            "use --compare."
        )
    own = root / ".venv" / "bin" / "python"
    return Build(root, version, _commit(root), str(own) if own.is_file() else sys.executable)


def this_build() -> Build:
    """The one that is running."""
    root = _own_root()
    return Build(root, describe_versions()[_PACKAGE], _commit(root), sys.executable)


def _own_root() -> Path:
    return Path(__file__).resolve().parents[3]


def _commit(root: Path) -> str | None:
    top = _git(root, ["rev-parse", "--show-toplevel"])
    if top is None or Path(top).resolve() != root:  # a copy inside of another repository is none of its commits
        return None
    commit = _git(root, ["rev-parse", "HEAD"])
    changed = _git(root, ["status", "--porcelain", "--untracked-files=no"])
    return f"{commit}+changes" if commit and changed else commit


def _git(root: Path, arguments: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
