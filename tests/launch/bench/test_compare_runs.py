"""Runs of one build, and of the same build with a sleep in each step: told apart by `--compare`, and by turns.

LOCKSTEP_BENCH_REPEATS=10 repeats each comparison ten times, which takes ten minutes of a quiet machine.
"""

import json
import os
from pathlib import Path

import pytest

from tests.support.shell import Shell, finish
from tests.support.small_model import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
REPEATS = int(os.environ.get("LOCKSTEP_BENCH_REPEATS", "2"))
# Python imports a sitecustomize at its start; this one has each step of the configuration as given sleep for a share
SLEEPER = """
import os, sys, time
from importlib.machinery import PathFinder

SHARE = float(os.environ["LOCKSTEP_SLEEP_SHARE"])
asleep = [True]


def slow_steps(module):
    whole = module.Experts.predict

    def predict(self, *arguments):
        started = time.perf_counter()
        found = whole(self, *arguments)
        if asleep[0]:
            time.sleep(SHARE * (time.perf_counter() - started))
        return found

    module.Experts.predict = predict


def only_as_given(module):
    whole = module.VideoMaker.make

    def make(self, *arguments):
        asleep[0] = self._variant.name == "given"
        return whole(self, *arguments)

    module.VideoMaker.make = make


class Finder:
    changes = {"engine.denoise.experts": slow_steps, "launch.bench.video": only_as_given}

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name not in cls.changes:
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            cls.changes[name](module)

        spec.loader.exec_module = exec_module
        return spec


if SHARE:
    sys.meta_path.insert(0, Finder)
"""


def bench(shell: Shell, output: str, sleep: float, *arguments: str) -> None:
    folder = shell.folder / "sleeper"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SLEEPER)
    options = shell.options(f"--output={output}", "--set=cache.method=none", *arguments)
    environment = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "LOCKSTEP_SLEEP_SHARE": str(sleep)}
    finish(shell.lockstep("bench", *options, **environment))


def compared(shell: Shell, a: str, b: str) -> int:
    process = shell.lockstep("bench", "--compare", a, b, "--report", f"{a}-{b}.json")
    out, err = process.communicate(timeout=120)
    assert process.returncode in (0, 1), err
    report = json.loads((shell.folder / f"{a}-{b}.json").read_text())
    assert bool(report["slower"]) == bool(process.returncode), out
    return process.returncode


def test_two_runs(shell: Shell) -> None:
    told, cries = 0, 0
    for number in range(REPEATS):
        for name, sleep in (("a", 0.0), ("equal", 0.0), ("slow", 0.05)):
            bench(shell, f"{name}{number}", sleep)
        told += compared(shell, f"a{number}", f"slow{number}")
        cries += compared(shell, f"a{number}", f"equal{number}")
    assert (told, cries) == (REPEATS, 0)


def test_turns_in_one_run(shell: Shell, tmp_path: Path) -> None:
    small = {"sampling.steps": 8, "sampling.frames": 5, "sampling.height": 32, "sampling.width": 32}
    against = tmp_path / "against.yaml"
    against.write_text(against_config(shell.model, small))
    told, cries = 0, 0
    for number in range(REPEATS):
        for name, sleep in (("equal", 0.0), ("slow", 0.05)):
            bench(shell, f"{name}-turns{number}", sleep, f"--against={against}")
        told += compared(shell, f"slow-turns{number}", f"slow-turns{number}")
        cries += compared(shell, f"equal-turns{number}", f"equal-turns{number}")
    assert (told, cries) == (REPEATS, 0)


def against_config(model: Path, sampling: dict[str, int]) -> str:
    """The shipped configuration, as the shell's options change it."""
    import yaml

    from tests.support.small_model import CONFIG

    content = yaml.safe_load(CONFIG.read_text())
    content["model"]["path"] = str(model)
    content["cache"] = {"method": "none"}
    content["sampling"] |= {key.partition(".")[2]: value for key, value in sampling.items()}
    content["runtime"]["device"] = "cpu"
    return str(yaml.safe_dump(content))
