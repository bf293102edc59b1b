"""Runs of the command line that lines start: the same program, in an environment that is none of a rank's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.check.site import Site
from launch.process.signals import PARENT_PID
from launch.ranks.local import checkout_environment

_OF_RANKS = re.compile(r"^((LOCAL_)?(RANK|WORLD_SIZE)|(GROUP|ROLE|MASTER|TORCHELASTIC)_\w+)$")


def start(site: Site, arguments: Sequence[str], stdin: str | None = None) -> subprocess.Popen[str]:
    """Start Python with these arguments. What it writes into a state folder goes to the site's; its stderr can be read.

    Args:
        stdin: a text for it; nothing where left out.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=_environment(site.folder),
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if stdin is not None:
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None  # which waiting for the end would write to
    return process


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not _OF_RANKS.match(name) and name != PARENT_PID}
    state = str(folder / "state")
    own = {"TMPDIR": str(folder), "LOCKSTEP_STATE": state, "XDG_STATE_HOME": state, "CI": "1"}
    return {**kept, **checkout_environment(), **own}
