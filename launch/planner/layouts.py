"""The layouts that Lockstep accepts on a cluster, predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from launch.planner.cluster import Cluster
from launch.planner.predict import Prediction, predict
from launch.planner.software import FITTED, LOCKSTEP, Efficiencies, Software, Speeds
from launch.planner.steps import Plan
from launch.planner.workload import Workload
from parallel.config import ParallelConfig
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.placement import find_placement


@dataclass(frozen=True)
class Question:
    """What is planned, beside the cluster."""

    workload: Workload
    software: Software = LOCKSTEP
    fitted: Efficiencies = FITTED
    speeds: Speeds | None = None
    """Measured ones, in the place of the card's published figures."""
    given: ParallelConfig = field(default_factory=lambda: ParallelConfig(cfg=None))
    """Degrees that the user gives; all others are open. ``data`` 1 is open too."""
    shard_weights: bool | None = None
    """As the user gives it; None tries both."""

    def with_share(self, share: float) -> Question:
        """The same with another share of skipped steps."""
        skipping = replace(self.workload.skipping, share=share)
        return replace(self, workload=replace(self.workload, skipping=skipping))


def accepted_degrees(question: Question, cluster: Cluster, replicas: Sequence[int] | None = None) -> list[Degrees]:
    """All degrees on all cards of the cluster that :func:`parallel.placement.find_placement` accepts.

    Args:
        replicas: data degrees to try; all where left out.
    """
    size, given = cluster.size, question.given
    found = []
    for data in replicas or _divisors(size):
        if size % data or (given.data > 1 and data != given.data):
            continue
        for cfg in (1, 2) if question.workload.branches == 2 else (1,):
            rest = size // data
            if rest % cfg or given.cfg not in (None, cfg):
                continue
            for ulysses in _divisors(rest // cfg):
                ring = rest // cfg // ulysses
                if given.ulysses in (None, ulysses) and given.ring in (None, ring):
                    found += _accepted(
                        question, cluster, ParallelConfig(data=data, cfg=cfg, ulysses=ulysses, ring=ring)
                    )
    return found


def _accepted(question: Question, cluster: Cluster, section: ParallelConfig) -> list[Degrees]:
    workload = question.workload
    place = Place(cluster.size, local_ranks=cluster.per_node, nodes=cluster.nodes)
    with suppress(ValueError):
        placement = find_placement(
            section,
            place,
            num_heads=workload.facts.num_heads,
            num_tokens=workload.lane.tokens,
            guided=workload.branches == 2,
        )
        return [placement.degrees]
    return []


def predictions(question: Question, cluster: Cluster, replicas: Sequence[int] | None = None) -> Iterator[Prediction]:
    """Predictions for each accepted layout."""
    for degrees in accepted_degrees(question, cluster, replicas):
        yield from predict_layout(question, cluster, degrees)


def predict_configured(question: Question, cluster: Cluster, section: ParallelConfig) -> Prediction | None:
    """The layout that runs take with this section on all cards of the cluster; None where it cannot run on them."""
    found = [
        prediction
        for degrees in _accepted(question, cluster, section)
        for prediction in predict_layout(question, cluster, degrees)
    ]
    alone = [prediction for prediction in found if prediction.plan.shard_weights == section.shard_weights]
    return next(iter(alone or found), None)


def predict_layout(question: Question, cluster: Cluster, degrees: Degrees) -> list[Prediction]:
    """One layout, with whole weights on each rank and with weights shared out, unless the user says which."""
    shared = [True, False] if question.shard_weights is None else [question.shard_weights]
    if degrees.replica_size == 1:
        shared = [False]
    plans = [Plan(cluster, degrees, question.software, shard) for shard in shared]
    return [predict(question.workload, plan, question.speeds, question.fitted) for plan in plans]


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
