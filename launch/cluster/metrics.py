"""The metrics of a gang's server, which Ray exports to Prometheus on each node of the cluster."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from launch.queue.records import State

_REFRESH_SECONDS = 2.0
_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]


class Metrics:
    """Of one gang. Ray has to be connected."""

    def __init__(self, gang: str) -> None:
        tags = {"gang": gang}
        self._jobs = Counter("lockstep_jobs", "Jobs that have ended, by their final state.", ("gang", "state"))
        self._restarts = Counter("lockstep_restarts", "Times that a job's ranks were started again.", ("gang",))
        self._preemptions = Counter("lockstep_preemptions", "The same, because a node was pre-empted.", ("gang",))
        self._steps = Histogram(
            "lockstep_step_seconds",
            "Seconds of a denoise step, of finished jobs; action is computed or skipped.",
            _SECONDS,
            ("gang", "action"),
        )
        self._skip_share = Gauge("lockstep_skip_share", "Share of skipped steps in the newest finished job.", ("gang",))
        self._queued = Gauge("lockstep_queue_length", "Jobs that wait, whichever gang they wait for.", ("gang",))
        self._newest_share: float | None = None
        self._refreshed_at = 0.0
        for metric in (self._jobs, self._restarts, self._preemptions, self._steps, self._skip_share, self._queued):
            metric.set_default_tags(tags)

    def ended(self, state: State) -> None:
        """Count a job that has ended."""
        self._jobs.inc(tags={"state": state.value})

    def restarted(self, preempted: bool) -> None:
        """Count a restart of a job's ranks."""
        (self._preemptions if preempted else self._restarts).inc()

    def refresh(self, queued: int | None) -> None:
        """Set all gauges now and then, since Ray forgets a gauge that is not set for a while.

        Args:
            queued: jobs that wait, as far as that is known.
        """
        if time.monotonic() - self._refreshed_at < _REFRESH_SECONDS:
            return
        self._refreshed_at = time.monotonic()
        if queued is not None:
            self._queued.set(queued)
        if self._newest_share is not None:
            self._skip_share.set(self._newest_share)

    def made(self, report: Mapping[str, Any]) -> None:
        """Record the steps of a finished video.

        Args:
            report: its run report.
        """
        for action, seconds in step_seconds(report):
            self._steps.observe(seconds, tags={"action": action})
        totals = report["totals"]
        self._newest_share = totals["skipped"] / (totals["computed"] + totals["skipped"])
        self._skip_share.set(self._newest_share)


def step_seconds(report: Mapping[str, Any]) -> list[tuple[str, float]]:
    """("computed" or "skipped", seconds) of each denoise step in a run report.

    The seconds are the sum over the guidance branches, or the maximum where they run on different ranks. A step counts
    as computed if any branch was. Steps whose time is unknown, because a run was resumed, are left out.
    """
    branches: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in report["steps"]:
        branches[row["step"]].append(row)
    together = max if report["layout"]["cfg"] > 1 else sum
    return [
        (
            "skipped" if all(row["action"] == "skip" for row in rows) else "computed",
            together(r["seconds"] for r in rows),
        )
        for _, rows in sorted(branches.items())
        if all(row["seconds"] is not None for row in rows)
    ]
