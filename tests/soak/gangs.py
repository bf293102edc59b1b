"""Gangs that serve a queue, each brought up again when its server is killed, on nodes that are replaced when lost."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.soak.plan import RANKS, Fault
from tests.support.ray_nodes import NODE, PLAIN
from tests.support.shell import Shell

_NODE = {**NODE, "num_cpus": RANKS}
# a node counts as lost after three seconds without a word; Ray's own default takes half a minute
_HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}


class Nodes:
    """A Ray cluster with room for some gangs, a node for each. Its head is always at the same address."""

    def __init__(self, gangs: int) -> None:
        os.environ.update(PLAIN)  # before Ray is imported
        self._gangs = gangs
        self._port = _free_port()
        self._cluster: Any = None
        self.start()

    @property
    def address(self) -> str:
        return str(self._address)

    def start(self) -> None:
        """Start the head, and a node for each gang."""
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        cluster.add_node(**{**NODE, "num_cpus": 0}, gcs_server_port=self._port, _system_config=_HEALTH)
        for _ in range(self._gangs):
            cluster.add_node(**_NODE)
        self._address, self._cluster = cluster.address, cluster

    def lose_head(self) -> None:
        """Kill all of the head's processes at once, and what is left of the cluster after it."""
        cluster, self._cluster = self._cluster, None
        cluster.remove_node(cluster.head_node, allow_graceful=False)
        cluster.shutdown()

    def raylets(self) -> list[int]:
        """The processes of the nodes that gangs run on; none while there is no cluster."""
        nodes = self._cluster.worker_nodes if self._cluster else ()
        running = [process for node in nodes for kind, process in node.live_processes() if kind == "raylet"]
        return [process.pid for process in running]

    def replace_lost(self) -> None:
        """A new node for each one whose raylet is gone."""
        for node in list(self._cluster.worker_nodes) if self._cluster else ():
            if not node.live_processes() or any(kind == "raylet" for kind, _ in node.dead_processes()):
                self._cluster.remove_node(node, allow_graceful=False)
                self._cluster.add_node(**_NODE)

    def stop(self) -> None:
        if self._cluster:
            self._cluster.shutdown()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


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
        return bool(self._processes(b"\0launch.cluster"))  # the server, or what starts it again

    def servers(self) -> list[int]:
        """The processes of its server; none while there is none."""
        return self._processes(b"\0launch.cluster.serve\0")

    def _processes(self, word: bytes) -> list[int]:
        found = []
        for pid in self._shell.family():
            process = Path("/proc", str(pid))
            try:
                is_ours = f"LOCKSTEP_FAULT={self._fault}" in (process / "environ").read_text().split("\0")
                if is_ours and word in (process / "cmdline").read_bytes():
                    found.append(pid)
            except OSError:
                continue  # it has gone meanwhile
        return found

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
