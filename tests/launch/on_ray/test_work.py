"""Sweeps, calibrations and benches on a Ray cluster: as on local ranks, with results where the driver is."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.ray_nodes import PLAIN, assert_nothing_left
from tests.support.shell import Shell, finish

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


def run(shell: Shell, cluster: Any, command: str, *arguments: str) -> subprocess.Popen[str]:
    (shell.folder / "prompts.txt").write_text("a red circle\na blue square\n")
    ray = ("--launcher=ray", f"--ray-address={cluster.address}") if cluster else ()
    return shell.lockstep(command, *shell.options("--prompts=prompts.txt", *ray, *arguments), **PLAIN)


def measured(folder: Path) -> list[dict[str, Any]]:
    """The settings of a sweep without what differs from run to run."""
    settings = json.loads((folder / "sweep.json").read_text())["settings"]
    return [
        {name: value for name, value in setting.items() if "seconds" not in name and name not in ("prompts", "speedup")}
        for setting in settings
    ]


def test_a_sweep_on_two_nodes_is_that_of_local_ranks(cluster: Any, shell: Shell) -> None:
    arguments = (
        "--methods=dicache,taylorseer",
        "--shares=40",
        "--tune-prompts=1",
        "--ranks=2",
        "--set=parallel.ring=2",
    )
    finish(run(shell, None, "sweep", *arguments, "--output=local"))
    out, err = finish(run(shell, cluster, "sweep", *arguments, "--output=ray"))
    assert measured(shell.folder / "ray") == measured(shell.folder / "local")
    assert (shell.folder / "ray" / "sweep.md").read_text() in out
    assert out.endswith("written to ray: sweep.json, sweep.md, sweep.svg\n")
    assert "dB" in err and "Traceback" not in err
    assert_nothing_left(cluster, shell)


@pytest.mark.parametrize(("command", "begun"), [("sweep", "uncached"), ("bench", "warm-up")])
def test_a_killed_rank_ends_all(command: str, begun: str, cluster: Any, shell: Shell) -> None:
    process = run(shell, cluster, command, "--output=r", "--ranks=2", "--set=sampling.steps=300")
    shell.await_line(process, begun)
    time.sleep(4)
    os.kill(next(pid for pid in shell.family() if pid != process.pid), signal.SIGKILL)
    killed = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 15
    assert process.returncode == 1 and out == ""
    assert re.fullmatch(
        r"lockstep: rank [01] failed in [a-z0-9 ]+: the process on node .* died", err.splitlines()[-1]
    ), err
    assert_nothing_left(cluster, shell)


@pytest.mark.parametrize(
    ("command", "begun", "signum"), [("bench", "warm-up", signal.SIGKILL), ("sweep", "uncached", signal.SIGINT)]
)
def test_an_ended_driver_leaves_nothing(command: str, begun: str, signum: int, cluster: Any, shell: Shell) -> None:
    process = run(shell, cluster, command, "--output=r", "--ranks=2", "--set=sampling.steps=300")
    shell.await_line(process, begun)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    if signum == signal.SIGINT:
        assert process.returncode == 130 and err.splitlines()[-1] == "lockstep: interrupted"
    assert_nothing_left(cluster, shell)


def test_results_come_from_a_node_whose_disk_is_another(
    elsewhere: Any, shell: Shell, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep goes on from what an earlier one has left with the driver, and a calibration leaves no partial folder."""
    arguments = ("--methods=taylorseer", "--ranks=2", "--output=out/ray")
    finish(run(shell, elsewhere, "sweep", *arguments))
    folder = shell.folder / "out" / "ray"
    runs = {file: file.stat().st_mtime_ns for file in folder.glob("runs/*/*.json")}
    assert len(list(folder.glob("references/*.safetensors"))) == 2 and len(runs) > 2
    lost = sorted(runs)[-1]
    lost.unlink()
    _, err = finish(run(shell, elsewhere, "sweep", *arguments))
    assert re.search(r"sending \d+ files of an earlier run", err)
    again = {file: file.stat().st_mtime_ns for file in folder.glob("runs/*/*.json")}
    assert again.keys() == runs.keys() and [file for file in runs if again[file] != runs[file]] == [lost]

    out, _ = finish(run(shell, elsewhere, "calibrate", "--ranks=2", "--output=cal.json"))
    assert out.splitlines()[0] == "calibration  cal.json"
    finish(run(shell, None, "calibrate", "--ranks=2", "--output=local.json"))
    there, here = (json.loads((shell.folder / name).read_text()) for name in ("cal.json", "local.json"))
    assert there == here and not list(shell.folder.glob("*.partial"))
    assert_nothing_left(elsewhere, shell)
