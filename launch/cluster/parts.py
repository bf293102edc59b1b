"""What the server of a gang is made of, which its loop and the runner of its jobs share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from launch.cluster.loaded import LoadedGang
from launch.cluster.metrics import Metrics
from launch.cluster.outage import Outage
from launch.cluster.progress import GangProgress
from launch.cluster.registration import GangRegistration
from launch.cluster.stopping import StopRequest
from launch.queue.store import Queue


@dataclass(frozen=True)
class ServerParts:
    """The parts of one gang's server."""

    queue: Queue
    registration: GangRegistration
    loaded: LoadedGang
    """Started."""
    progress: GangProgress
    """Told what the gang's rank 0 reports."""
    stop: StopRequest
    metrics: Metrics
    log: Callable[[str], None]
    """Takes one line for each event."""
    outage: Outage
    """Told of calls to the queue that fail."""
