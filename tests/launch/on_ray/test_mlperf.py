"""MLPerf's test on a Ray cluster: LoadGen works on the first rank's node, and its logs come to the driver."""

import json
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launch.bench.reading import read_document
from tests.support.ray_nodes import PLAIN, assert_nothing_left
from tests.support.shell import Shell, await_file, finish

pytest.importorskip("mlperf_loadgen")
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]
PROMPTS = ("a red circle", "a blue square", "a green triangle")


def start(shell: Shell, cluster: Any, scenario: str, seconds: float, *arguments: str) -> subprocess.Popen[str]:
    (shell.folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    given = (f"--mlperf={scenario}", "--prompts=prompts.txt", "--output=results", "--ranks=2", *arguments)
    settings = ("sampling.steps=5", f"mlperf.min_duration_seconds={seconds}", "cache.threshold=5")
    ray = ("--launcher=ray", f"--ray-address={cluster.address}")
    sets = [f"--set={each}" for each in settings]
    return shell.lockstep("bench", *shell.options(*given, *ray, *sets), **PLAIN)


def check(folder: Path, out: str, queries: int) -> Mapping[str, Any]:
    document: Mapping[str, Any] = json.loads((folder / "mlperf.json").read_text())
    bench = read_document(folder)
    assert bench.made_with["command"][:2] == ["lockstep", "bench"], "as it was typed, not as Ray starts an actor"
    assert bench.world_size == 2 and bench.cache_gain and bench.cache_gain.psnr_db
    for name in ("cache_off", "cache_on"):
        assert document[name]["valid"] and document[name]["faults"] == []
        assert document[name]["samples"] >= queries
        assert "Result is : VALID" in (folder / name / "mlperf_log_summary.txt").read_text()
    assert (folder / "mlperf.md").read_text() in out and not (folder / "latents").exists()
    return document


def test_singlestream_on_two_nodes(cluster: Any, shell: Shell) -> None:
    out, err = finish(start(shell, cluster, "singlestream", 1))
    check(shell.folder / "results", out, 64)
    assert "Traceback" not in err
    assert_nothing_left(cluster, shell)


def test_offline_where_the_driver_sees_none_of_their_disks(elsewhere: Any, shell: Shell) -> None:
    process = start(shell, elsewhere, "offline", 1, "--set=parallel.data=2", "--set=mlperf.queries=12")
    document = check(shell.folder / "results", finish(process)[0], 12)
    assert len(document["cache_off"]["samples_by_replica"]) == 2
    assert_nothing_left(elsewhere, shell)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_driver_leaves_nothing(signum: int, cluster: Any, shell: Shell) -> None:
    process = start(shell, cluster, "singlestream", 600)
    log = shell.folder / "results" / "cache_off" / "mlperf_log_detail.txt"
    await_file(log, process, seconds=120)
    time.sleep(1)  # some queries
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    if signum == signal.SIGINT:
        assert process.returncode == 130 and err.splitlines()[-1] == "lockstep: interrupted"
    assert not (shell.folder / "results" / "mlperf.json").exists()
    assert_nothing_left(cluster, shell)
