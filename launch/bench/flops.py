"""Model FLOPs of a video: of what ran, by the formula of `engine.cost`, all ranks of a replica together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from engine.config import Config
from engine.cost.flops import denoise_flops
from engine.cost.ran import Ran, TextLengths, read_run
from engine.cost.stages import decode_flops, encode_flops
from engine.models.facts import ModelFacts
from engine.request import GenerationRequest


@dataclass(frozen=True)
class Counted:
    """Model FLOPs of one video, all ranks of the replica together."""

    by_kind: Mapping[str, float]
    """Of the denoise steps, by kind of layer."""
    by_stage: Mapping[str, float]


def count_flops(ran: Ran) -> Mapping[str, float]:
    """Of all denoise steps, by kind of layer. The work is that of the model, on however many ranks: what a layout adds,
    such as padding and what all ranks compute alike, is not counted."""
    experts = sum(bool(steps) for steps in ran.experts)
    counted = denoise_flops(ran.shape, ran.inputs, ran.steps, conditioned=experts)
    return {kind: float(flops) for kind, flops in counted.items()}


def count_stages(ran: Ran, by_kind: Mapping[str, float]) -> Mapping[str, float]:
    """Of ``encode``, ``denoise`` and ``decode``. A stage is left out where a configuration lacks a size.

    Args:
        by_kind: of the denoise steps.
    """
    stages = {"denoise": sum(by_kind.values())}
    with suppress(KeyError):
        stages["encode"] = float(encode_flops(ran))
    with suppress(KeyError):
        stages["decode"] = float(decode_flops(ran))
    return stages


def count_all(
    config: Config,
    facts: ModelFacts,
    request: GenerationRequest,
    rows: Sequence[Mapping[str, Any]],
    texts: Sequence[TextLengths],
) -> Counted | None:
    """Of one video.

    Args:
        config: with nothing left open.
        rows: the steps of the run report.
        texts: of every lane, as the first rank has measured them.

    Returns:
        None for HunyuanVideo where the lengths of its texts are not known.
    """
    ran = read_run(config, facts, request, rows, texts)
    if ran is None:
        return None
    by_kind = count_flops(ran)
    return Counted(by_kind, count_stages(ran, by_kind))
