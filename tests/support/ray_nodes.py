"""A Ray cluster of several nodes on this machine, and runs on it that meet one fault after the other."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.shell import Shell

# nodes of a test need no token; without this they would want the one that a person may have in the home folder
PLAIN = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ADDRESS": "",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else tests beside these take all of the processor
}
NODE: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
# a small configuration, in which nothing is waited for long
IMPATIENT = (
    "--set=checkpoint.every=2",
    "--set=ray.max_restarts=100",
    "--set=ray.silence_timeout_seconds=12",
    "--set=runtime.step_timeout_seconds=5",
)
_TIME_OF_DAY = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")  # before each line that is not on a terminal
Fault = tuple[int, str, str, float]  # rank, where, how, seconds later


@contextmanager
def two_nodes() -> Iterator[Any]:
    """Two nodes with one CPU each, so that two ranks are on different ones. They export metrics every second."""
    from ray.cluster_utils import Cluster

    head = NODE | {"_system_config": {"metrics_report_interval_ms": 1000}}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PLAIN.items():  # for Ray in this process and for the nodes that it starts
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(**NODE)
            yield cluster
        finally:
            cluster.shutdown()


def on_ray(shell: Shell, cluster: Any, *arguments: str, fault: str = "", **environment: str) -> subprocess.Popen[str]:
    address = f"--ray-address={cluster.address}"
    return shell.generate("--prompt=x", "--launcher=ray", address, *arguments, fault=fault, **PLAIN, **environment)


def assert_nothing_left(cluster: Any, shell: Shell, seconds: float = 15) -> None:
    """No process of a rank, no actor and no placement group."""
    shell.await_nobody(seconds)
    deadline = time.monotonic() + seconds
    while left := [
        table["state"] if "state" in table else table["State"]
        for table in (
            *cluster.global_state.placement_group_table().values(),
            *cluster.global_state.actor_table(None).values(),
        )
        if (table["state"] if "state" in table else table["State"]) not in ("REMOVED", "DEAD")
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


class Plan:
    """Faults that the gangs of a run meet in turn."""

    def __init__(self, shell: Shell, faults: Sequence[Fault]) -> None:
        self._file = shell.folder / "plan.json"
        self._file.write_text(json.dumps(faults))
        self._file.with_name("plan.json.met").unlink(missing_ok=True)
        self.fault = f"plan {self._file}"

    @property
    def met(self) -> list[float]:
        """When each was met, in seconds since the epoch."""
        file = self._file.with_name("plan.json.met")
        return [float(line) for line in file.read_text().splitlines()] if file.exists() else []

    def await_met(self, count: int, process: subprocess.Popen[str], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while len(self.met) < count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"{len(self.met)} of {count} faults were met"
            time.sleep(0.05)


class Spoken:
    """What a process writes to stderr, without the time of day that it writes itself, and when."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[tuple[float, str]] = []  # seconds since the epoch, line
        self._process = process
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def end(self, expected: int = 0, seconds: float = 1100) -> str:
        """Wait for the process; its stdout."""
        assert self._process.stdout is not None
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"still at work: {self.lines}"
        out = self._process.stdout.read()
        assert self._process.wait(10) == expected, (out, self.lines)
        return out

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append((time.time(), _TIME_OF_DAY.sub("", line.rstrip("\n"))))
