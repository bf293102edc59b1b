"""Gangs that serve a queue, each brought up again when its server is killed, on nodes that are replaced when lost."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.soak.plan import RANKS, Fault
from tests.support.ray_nodes import NODE, PLAIN
from tests.support.shell import Shell

_NODE = {**NODE, "num_cpus": RANKS}
# a node counts as lost after three seconds without a word; Ray's own default takes half a minute
_HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}


class Nodes:
    """A Ray cluster with room for some gangs, a node for each."""

    def __init__(self, gangs: int) -> None:
        os.environ.update(PLAIN)  # before Ray is imported
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._cluster.add_node(**{**NODE, "num_cpus": 0}, _system_config=_HEALTH)
        for _ in range(gangs):
            self._cluster.add_node(**_NODE)

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def replace_lost(self) -> None:
        """A new node for each one whose raylet is gone."""
        for node in list(self._cluster.worker_nodes):
            if not node.live_processes() or any(kind == "raylet" for kind, _ in node.dead_processes()):
                self._cluster.remove_node(node, allow_graceful=False)
                self._cluster.add_node(**_NODE)

    def stop(self) -> None:
        self._cluster.shutdown()


@contextmanager
def nodes(gangs: int) -> Iterator[Nodes]:
    running = Nodes(gangs)
    try:
        yield running
    finally:
        running.stop()


class Gang:
    """One place at the queue: its server, its faults, and what its ranks have made."""

    def __init__(self, shell: Shell, number: int, faults: Sequence[Fault], command: Sequence[str]) -> None:
        """
        Args:
            command: after `lockstep`, to bring it up; it comes back and leaves a server.
        """
        self._shell = shell
        self._file = shell.folder / f"gang-{number}.json"
        self._file.write_text(json.dumps(faults))
        self._faults = faults
        self._command = command
        self._fault = f"plan {self._file}"
        self._starting: subprocess.Popen[str] | None = None

    def keep_up(self) -> None:
        """Bring the gang up if it has no server."""
        if (self._starting is not None and self._starting.poll() is None) or self._has_server():
            return
        command = [sys.executable, "-m", "launch", *self._command]
        with Path(f"{self._file}.log").open("a") as log:
            self._starting = self._shell.start(command, self._fault, stdout=log.fileno(), stderr=log.fileno(), **PLAIN)

    def _has_server(self) -> bool:
        for pid in self._shell.family():
            process = Path("/proc", str(pid))
            try:
                is_server = b"\0launch.cluster" in (process / "cmdline").read_bytes()  # or starts it again
                if is_server and f"LOCKSTEP_FAULT={self._fault}" in (process / "environ").read_text().split("\0"):
                    return True
            except OSError:
                continue  # it has gone meanwhile
        return False

    @property
    def met(self) -> Sequence[Fault]:
        """The faults until now."""
        return self._faults[: len(self._lines("met"))]

    @property
    def made(self) -> list[list[str]]:
        """[began, made or twice, process, video], oldest first."""
        return [line.split(" ", 2) for line in self._lines("made")]

    def _lines(self, suffix: str) -> list[str]:
        file = Path(f"{self._file}.{suffix}")
        return file.read_text().splitlines() if file.exists() else []
