"""What can turn a gate's skip into a computed step: the other guidance branch, and the user's limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dicache.config import CacheConfig
from dicache.steps import Decision, History, Lane, Step


@dataclass(frozen=True)
class Rules:
    """Applied to each segment by itself."""

    groups: tuple[tuple[Lane, ...], ...]
    """Lanes that skip a step all together or not at all; every lane is in one group."""
    max_consecutive_skips: int | None = None
    forced_step: int | None = None
    """Index of a step that is always computed."""
    max_skips: int | None = None

    def settle(
        self, step: Step, proposals: Mapping[Lane, Decision], histories: Mapping[Lane, History]
    ) -> dict[Lane, Decision]:
        """Decide about one segment in each lane, from what the gates propose and the segment's histories."""
        decisions: dict[Lane, Decision] = {}
        for group in self.groups:
            skip = all(proposals[lane].action == "skip" for lane in group)
            skip = skip and not any(self._is_forced(step, histories[lane]) for lane in group)
            decisions |= {lane: proposals[lane] if skip else _computed(proposals[lane]) for lane in group}
        return decisions

    def _is_forced(self, step: Step, history: History) -> bool:
        in_a_row, in_all = self.max_consecutive_skips, self.max_skips
        return (
            step.index == self.forced_step
            or (in_a_row is not None and history.skips_before(step) >= in_a_row)
            or (in_all is not None and history.num_skips >= in_all)
        )


def build_rules(config: CacheConfig, lanes: Sequence[Lane], num_steps: int) -> Rules:
    """The rules that ``config`` sets. A replayed schedule has none: it already is their outcome."""
    each_alone = tuple((lane,) for lane in lanes)
    if config.replay is not None:
        return Rules(each_alone)
    branches: dict[tuple[int, int], tuple[Lane, ...]] = {}
    for lane in lanes:
        key = lane.sample, lane.window
        branches[key] = (*branches.get(key, ()), lane)
    return Rules(
        groups=tuple(branches.values()) if config.decide == "together" else each_alone,
        max_consecutive_skips=config.max_consecutive_skips,
        forced_step=num_steps - 1 if config.force_last else None,
        max_skips=config.max_skips,
    )


def _computed(proposal: Decision) -> Decision:
    if proposal.action != "skip":
        return proposal
    return replace(proposal, action="compute", gamma=None, coefficients=())
