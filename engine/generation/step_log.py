"""The run report's table of steps: what was decided for each lane, and how long it took."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dicache.controller import Decision, Lane, Step


@dataclass
class StepLog:
    """One row for each step and lane, in order."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: Step, timestep: float, decisions: Mapping[Lane, Decision]) -> None:
        """Write down what was decided at a step; :meth:`fill_seconds` adds the seconds at the end."""
        for lane, decision in decisions.items():
            self.rows.append(
                {
                    "step": step.index,
                    "timestep": timestep,
                    "sample": lane.sample,
                    "branch": lane.branch,
                    "action": decision.action,
                    "indicator": _number(decision.indicator),
                    "accumulated": _number(decision.accumulated),
                    "gamma": decision.gamma,
                    "seconds": None,
                }
            )

    def fill_seconds(self, seconds: Mapping[Any, float]) -> None:
        """Take the seconds of each (step, lane). Those of the last step before an interruption may be missing: a GPU
        may not have finished it when the checkpoint was written."""
        for row in self.rows:
            row["seconds"] = seconds.get((row["step"], Lane(row["sample"], row["branch"])))

    @property
    def skipped(self) -> int:
        """Rows whose step was estimated."""
        return sum(row["action"] == "skip" for row in self.rows)

    def block_fraction(self, num_blocks: int, probe_blocks: int) -> float:
        """Share of the blocks that were executed; 1 means that nothing was skipped."""
        every = num_blocks * len(self.rows)
        return (every - self.skipped * (num_blocks - probe_blocks)) / every


def _number(value: float | None) -> float | None:
    """A number that JSON can hold: it has no infinity, which is the change from zero to something."""
    return value if value is None or math.isfinite(value) else sys.float_info.max
