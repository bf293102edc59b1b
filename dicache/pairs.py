"""Methods by name: which gate goes with which estimator, and what the authors of the pair publish."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MethodName = Literal[
    "dicache",
    "fbcache",
    "dbcache",
    "teacache",
    "magcache",
    "easycache",
    "innovation",
    "interval",
    "taylorseer",
    "hicache",
    "abcache",
    "foca",
    "calibrated",
    "none",
]
Anchor = Literal["input", "probe", "latents", "nothing"]


@dataclass(frozen=True)
class Pair:
    """A gate and an estimator that were published together."""

    gate: str
    estimator: str
    anchor: Anchor = "input"
    """What estimates are added to, as in :class:`dicache.trajectory.Trajectory`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the cache section, with dots, that differ from :meth:`dicache.gates.gate.GateSettings.recommended` and
    from the defaults of the gate's and the estimator's own keys."""


PAIRS: Mapping[str, Pair] = {
    "dicache": Pair("probe", "alignment"),
    "fbcache": Pair("first_block", "reuse", "probe"),
    "dbcache": Pair("first_block", "reuse", "probe", {"threshold": 0.08, "warmup_ratio": None, "warmup_steps": 8}),
    "teacache": Pair("teacache", "reuse"),
    "magcache": Pair("magcache", "reuse"),
    "easycache": Pair("easycache", "reuse", "latents"),
    # Lockstep's own; without an anchor its velocities can follow the corrector
    "innovation": Pair("innovation", "alignment", "nothing", {"corrector": True}),
    "interval": Pair("interval", "reuse"),
    "taylorseer": Pair("interval", "taylor", "nothing", {"gate.interval": 5, "warmup_ratio": None, "warmup_steps": 3}),
    "hicache": Pair(
        "interval",
        "hermite",
        settings={"gate.interval": 5, "warmup_ratio": None, "warmup_steps": 3, "estimator.order": 2},
    ),
    "abcache": Pair(
        "interval", "adams_bashforth", "nothing", {"gate.interval": 6, "warmup_ratio": None, "warmup_steps": 5}
    ),
    "foca": Pair("interval", "foca", settings={"gate.interval": 5, "warmup_ratio": None, "warmup_steps": 3}),
    "calibrated": Pair("calibrated", "fitted", settings={"corrector": True}),
}


def method_of_gate(gate: str) -> str | None:
    """The method that a gate was published with, whose thresholds are meant for the gate."""
    return next((name for name, pair in PAIRS.items() if pair.gate == gate), None)
