"""The run report's table of steps: what was decided for each lane, and how long it took."""

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dicache.controller import Lane, Plan, Segment, Step


@dataclass
class StepLog:
    """One row for each step, lane and segment that may be estimated, in order. A row names the window and the segment
    only if they are not 0."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: Step, timestep: float, plans: Mapping[Lane, Plan]) -> None:
        """Write down what was decided at a step; :meth:`fill_seconds` adds the seconds at the end."""
        for lane, plan in plans.items():
            for number, decision in enumerate(plan.decisions):
                self.rows.append(
                    {"step": step.index, "timestep": timestep, "sample": lane.sample, "branch": lane.branch}
                    | ({"window": lane.window} if lane.window else {})
                    | ({"segment": number} if number else {})
                    | {
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
            lane = Lane(row["sample"], row["branch"], row.get("window", 0))
            row["seconds"] = seconds.get((row["step"], lane))

    def actions(self) -> dict[int, str]:
        """What was done at each step, all lanes and segments together: "warmup", "compute", or "skip" where every one
        of them was estimated."""
        together: dict[int, set[str]] = {}
        for row in self.rows:
            together.setdefault(row["step"], set()).add(row["action"])
        return {step: action_of(actions) for step, actions in together.items()}

    @property
    def skipped(self) -> int:
        """Rows whose step was estimated."""
        return sum(row["action"] == "skip" for row in self.rows)

    def block_fraction(self, num_blocks: int, segments: Sequence[Segment]) -> float:
        """Share of the blocks that were executed; 1 means that nothing was skipped.

        Args:
            segments: those that may be estimated, in the order of their numbers.
        """
        every = num_blocks * len(self.rows) // len(segments)
        numbers = [row.get("segment", 0) for row in self.rows if row["action"] == "skip"]
        return (every - sum(segments[number].num_blocks for number in numbers)) / every


def action_of(actions: Collection[str]) -> str:
    """One word for what several lanes did at a step, which takes as long as the one that did the most."""
    return next(action for action in ("warmup", "compute", "skip") if action in actions)


def _number(value: float | None) -> float | None:
    """A number that JSON can hold: it has no infinity, which is the change from zero to something."""
    return value if value is None or math.isfinite(value) else sys.float_info.max
