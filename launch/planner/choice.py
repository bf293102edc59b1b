"""The layout that suits a goal, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from engine.errors import InvalidInput
from launch.planner.cluster import Cluster
from launch.planner.layouts import Question, predictions
from launch.planner.predict import Prediction

_WORDS = {
    "compute": "computing",
    "link": "the links between ranks",
    "decode": "decoding",
    "fixed": "costs that no rank shares (launches, text encoder, copies to the host, writing)",
}


class Goal(StrEnum):
    """What a plan is to be best at."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    DEADLINE = "deadline"


@dataclass(frozen=True)
class Choice:
    """A layout, the sentence with the reason, and the others that were looked at, in the order of the goal."""

    goal: Goal
    best: Prediction
    why: str
    others: Sequence[Prediction]


def choose(question: Question, cluster: Cluster, goal: Goal, deadline_seconds: float | None = None) -> Choice:
    """The best layout on a cluster.

    Args:
        deadline_seconds: for the goal ``deadline``.

    Raises:
        InvalidInput: no layout is accepted, fits, or meets the deadline; one sentence.
    """
    fitting = _fitting(question, cluster)
    if goal is Goal.LATENCY:
        ranked = sorted(fitting, key=lambda p: (p.cache_on, p.plan.degrees.replica_size))
        return Choice(goal, ranked[0], _why_fastest(ranked), ranked[1:])
    if goal is Goal.THROUGHPUT:
        ranked = sorted(fitting, key=lambda p: (-p.videos_per_hour, p.cache_on))
        return Choice(goal, ranked[0], _why_most(ranked), ranked[1:])
    assert deadline_seconds is not None
    ranked = sorted((p for p in fitting if p.cache_on <= deadline_seconds), key=lambda p: (gpu_seconds(p), p.cache_on))
    if not ranked:
        fastest = min(fitting, key=lambda p: p.cache_on)
        raise InvalidInput(
            f"--deadline is {deadline_seconds:g} s, which no layout on {cluster} meets: the best there is takes "
            f"{fastest.cache_on:.1f} s ({describe(fastest)})."
        )
    return Choice(goal, ranked[0], _why_cheapest(ranked, deadline_seconds), ranked[1:])


def gpu_seconds(prediction: Prediction) -> float:
    """Of one video: what it costs."""
    return prediction.cache_on * prediction.plan.degrees.replica_size


def describe(prediction: Prediction) -> str:
    """The layout in words: axes above 1."""
    degrees = prediction.plan.degrees
    axes = [f"{name} {n}" for name, n in vars(degrees).items() if n > 1]
    shared = ", weights shared out" if prediction.plan.shard_weights and degrees.replica_size > 1 else ""
    return (" x ".join(axes) or "one rank") + shared


def main_limit(prediction: Prediction) -> tuple[str, float]:
    """What takes most of a video's time, in words, and its share."""
    name, seconds = next(iter(prediction.limits().items()))
    return _WORDS[name], seconds / prediction.cache_on


def _fitting(question: Question, cluster: Cluster) -> list[Prediction]:
    found = list(predictions(question, cluster))
    if not found:
        given = question.given
        raise InvalidInput(
            f"No layout of {cluster.size} ranks keeps to parallel.data {_shown(given.data)}, cfg {_shown(given.cfg)}, "
            f"ulysses {_shown(given.ulysses)} and ring {_shown(given.ring)} with {question.workload.facts.num_heads} "
            f"attention heads and {question.workload.lane.tokens} tokens: leave some open, or change --cluster."
        )
    fitting = [prediction for prediction in found if prediction.fits]
    if not fitting:
        least = min(found, key=lambda p: p.memory_bytes)
        raise InvalidInput(
            f"{question.workload.model.name} fits on no layout of {cluster}: the least is "
            f"{least.memory_bytes / 1e9:.0f} GB a GPU ({describe(least)}), of {cluster.card.memory_bytes / 1e9:.0f} GB "
            "less a tenth and 2 GB: use larger or more GPUs, or a smaller video."
        )
    return fitting


def _shown(degree: int | None) -> str:
    return "open" if degree is None else str(degree)


def _why_fastest(ranked: Sequence[Prediction]) -> str:
    best = ranked[0]
    text = f"{describe(best)} is the fastest for one video: {best.cache_on:.1f} s{_beside(ranked)}"
    return f"{text}; {_limit(best)}."


def _why_most(ranked: Sequence[Prediction]) -> str:
    best = ranked[0]
    data = best.plan.degrees.data
    text = f"{describe(best)} makes the most videos an hour, {best.videos_per_hour:.1f}"
    if data > 1:
        text += f", since replicas send one another nothing: each of the {data} takes {best.cache_on:.1f} s a video"
    together = [p for p in ranked if p.plan.degrees.data == 1 and p is not best]
    if together:
        other = together[0]
        text += f", while all GPUs on one video ({describe(other)}) would make {other.videos_per_hour:.1f}"
    return f"{text}; {_limit(best)}."


def _why_cheapest(ranked: Sequence[Prediction], deadline: float) -> str:
    best = ranked[0]
    return (
        f"{describe(best)} is the cheapest that meets {deadline:g} s: {best.cache_on:.1f} s with "
        f"{best.plan.degrees.replica_size} GPUs a video, {gpu_seconds(best):.0f} GPU-seconds; {_limit(best)}."
    )


def _beside(ranked: Sequence[Prediction]) -> str:
    others = [p for p in ranked[1:] if p.plan.degrees.data == 1]
    if not others:
        return ""
    return f", the next ({describe(others[0])}) takes {others[0].cache_on:.1f} s"


def _limit(prediction: Prediction) -> str:
    words, share = main_limit(prediction)
    return f"{share:.0%} of the time is {words}"
