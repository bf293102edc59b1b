"""The first sign of life: before anything slow, where nobody watches."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.shell import Shell
from tests.support.small_model import CONFIG, ROOT

STARTING = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d lockstep %s: starting\n"


@contextmanager
def run(tmp_path: Path, slow: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The command, with a package that takes forever to import."""
    (tmp_path / slow).mkdir()
    (tmp_path / slow / "__init__.py").write_text("import time\nwhile True: time.sleep(1)\n")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "launch", *arguments],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("slow", ["torch", "pydantic"])
def test_it_comes_before_slow_imports(slow: str, tmp_path: Path) -> None:
    with run(tmp_path, slow, "generate", str(CONFIG), "--prompt=x", "--set=cache.method=auto") as process:
        assert process.stderr and re.fullmatch(STARTING % "generate", process.stderr.readline())


@pytest.mark.parametrize(("rank", "leads"), [("0", True), ("1", False)])
def test_under_torchrun_the_first_rank_gives_it(rank: str, leads: bool, tmp_path: Path) -> None:
    torchrun = {"RANK": rank, "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    with run(tmp_path, "typer", "sweep", str(CONFIG), **torchrun) as process:
        if leads:
            assert process.stderr and re.fullmatch(STARTING % "sweep", process.stderr.readline())
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                process.communicate(timeout=1.5)
            process.kill()
            assert process.communicate()[1] == ""


def test_what_is_shown_at_once_has_none(shell: Shell) -> None:
    for arguments in (["--version"], ["generate", "--help"]):
        assert shell.lockstep(*arguments).communicate(timeout=60)[1] == ""
