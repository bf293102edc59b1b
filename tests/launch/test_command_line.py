"""What a shell sees before and after the work: help, tab completion, and a line for whatever goes wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch.commands import completion as tab
from launch.commands.app import app
from launch.jobs.options import Options
from launch.process.packages import unfit_packages
from launch.process.running import run as run_here
from launch.queue.records import NewJob, Wish
from launch.queue.submissions import Submissions
from tests.support.shell import Shell, finish
from tests.support.small_model import CONFIG, ROOT, tiny_config


@pytest.mark.parametrize("arguments", [[], ["cluster"]])
def test_alone_it_prints_its_help(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here(app, arguments) == 0
    out, err = capfd.readouterr()
    assert run_here(app, [*arguments, "-h"]) == 0
    assert (out, err) == capfd.readouterr() and err == ""
    assert "Usage: lockstep" in out and (" up " if arguments else " generate ") in out


def offered(shell: Shell, line: str) -> tuple[list[str], set[str]]:
    """What bash offers at the end of a line, and the packages that are imported for it."""
    words = line.split(" ")
    environment = {"_LOCKSTEP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    out, err = finish(shell.start([sys.executable, "-X", "importtime", "-m", "launch"], **environment))
    imported = {word.rsplit("|", 1)[-1].strip().partition(".")[0] for word in err.splitlines()}
    return out.split(), imported


def test_a_tab_offers_what_fits_and_is_quick(shell: Shell) -> None:
    assert {"generate", "jobs", "cluster"} <= set(offered(shell, "lockstep ")[0])
    (shell.folder / "a.yaml").touch()
    words, imported = offered(shell, "lockstep generate a")
    assert words == ["a.yaml"]
    assert "pydantic" in imported and not imported & {"torch", "diffusers", "ray", "transformers"}


def test_what_a_tab_offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yml", "c.txt", ".hidden.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "sub" / "o.checkpoint").mkdir(parents=True)
    assert tab.config_files("") == ["a.yaml", "b.yml", "sub/"]
    assert tab.config_files("nowhere/") == tab.config_files("\0/") == []
    assert tab.checkpoint_folders("sub/") == ["sub/o.checkpoint"]
    assert tab.resume_choices("n") == ["never"]
    assert {"cache.gate.interval=", "cache.gate.name="} <= {key for key, _ in tab.keys("cache.gate.")}
    assert "checkpoint.every=" in [key for key, _ in tab.keys("")]
    assert tab.methods("dicache,f") == ["dicache,fbcache", "dicache,foca"]


def test_a_tab_offers_jobs(tmp_path: Path) -> None:
    context: Any = SimpleNamespace(params={"state": str(tmp_path)})
    assert tab.unfinished_jobs(context, "") == [], "no queue is no error"
    queue = Submissions(tmp_path)
    options = [Options("c.yaml", ["x"], output=tmp_path / name) for name in ("o.mp4", "p.mp4")]
    config = tiny_config().model_dump(mode="json")
    first, second = queue.submit([NewJob(each, config) for each in options])
    queue.wish(first, Wish.CANCEL)
    assert tab.any_jobs(context, "") == [(f"{second}", "queued: p.mp4"), (f"{first}", "cancelled: o.mp4")]
    assert [id for id, _ in tab.unfinished_jobs(context, "")] == [str(second)]
    (tmp_path / "queue.db").write_text("no database")
    assert tab.any_jobs(context, "") == tab.gangs(context, "") == []


def run(*arguments: str, path: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "launch", *arguments],
        env={"PYTHONPATH": f"{path}:{ROOT}", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


MISSING, BROKEN = "raise ModuleNotFoundError(\"No module named 'x'\")", "raise OSError('libx.so: no')"


@pytest.mark.parametrize(
    ("package", "why"),
    [
        ("torch", BROKEN),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("torch", MISSING), ("typer", MISSING))),
        pytest.param("pydantic", BROKEN, marks=pytest.mark.slow),
    ],
)
def test_a_package_that_cannot_be_imported_is_a_line(package: str, why: str, tmp_path: Path) -> None:
    (tmp_path / f"{package}.py").write_text(why)
    done = run("generate", str(CONFIG), "--prompt=x", path=tmp_path)
    (line,) = [line for line in done.stderr.splitlines() if not line.endswith(": starting")]
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith(f"lockstep: {why.split('(')[0].removeprefix('raise ')}: ")
    assert "Traceback" in run("generate", str(CONFIG), "--prompt=x", path=tmp_path, LOCKSTEP_TRACEBACK="1").stderr


def test_a_package_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unfit_packages() is None
    old = tmp_path / "diffusers-0.1.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: diffusers\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert str(unfit_packages()).startswith("diffusers is 0.1, but Lockstep needs >=")


def test_a_full_stdout_is_a_failure() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "launch", "--version"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert done.returncode == 1
    assert done.stderr.startswith("lockstep: ") and "No space left" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_closed_streams_and_a_reader_that_goes(shell: Shell) -> None:
    """What is printed to a closed stderr must not get into a file that was opened in its place."""
    lockstep = f"{sys.executable} -m launch"
    script = f"{lockstep} models | head -n 1; {lockstep} models >&-; echo $?; {lockstep} jobs --state=s <&- 2>&-; true"
    out, err = finish(shell.start(["bash", "-c", script]))
    assert err == "" and out.splitlines()[1:2] == ["0"] and "Traceback" not in out


@pytest.mark.parametrize("slow", ["launch.process.quiet", "launch.commands.app"])
def test_ctrl_c_among_imports_prints_no_traceback(slow: str, tmp_path: Path) -> None:
    """Before signals have their handlers, and after."""
    hook = f"""
import sys
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == {slow!r} and "launch.cli" in sys.modules:
            print("importing", flush=True)
            import time
            time.sleep(60)
sys.meta_path.insert(0, Slow())
"""
    (tmp_path / "sitecustomize.py").write_text(hook)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "launch", "models"],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert "Traceback" not in err and err in ("", "lockstep: interrupted\n")
    assert process.returncode in (-signal.SIGINT, 130)


def test_processes_of_libraries_warn_nobody() -> None:
    code = "from launch.process.quiet import quiet_libraries; quiet_libraries(); import os, subprocess, sys;"
    code += "subprocess.run([sys.executable, '-c', 'import warnings; warnings.warn(\"leaked semaphore\")'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert done.stderr == ""
