"""The small model's video, which many lines make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.request import GenerationRequest, Outputs, make_tasks
from launch.check.site import JOIN_SECONDS, Site
from launch.jobs.config import JobConfig
from parallel.degrees import Degrees

if TYPE_CHECKING:
    from torch import Tensor

    from engine.engine import Engine

PROMPT = "a red circle moving right on a navy background"
# a run takes a second on a CPU, and no number of ranks divides the tokens
OVERRIDES = ("sampling.steps=12", "sampling.frames=17", "sampling.height=48", "sampling.width=48")

Actions = list[tuple[int, str, str]]


@dataclass(frozen=True)
class Made:
    """latents: float32 [1, channels, frames, height, width], equal on every rank. actions: (step, branch, action), on
    the first rank. sha256: of the latents."""

    latents: Tensor
    actions: Actions
    sha256: str


def request_of(config: JobConfig, prompt: str = PROMPT, seed: int = 0) -> GenerationRequest:
    """The request for the small model's video."""
    (task,) = make_tasks([prompt], "", [seed], config.sampling, Outputs())
    return task.request


def config_for(
    site: Site, degrees: Degrees | None = None, dtype: str = "float32", audit: bool = False, shared: bool = False
) -> JobConfig:
    """The small model's configuration on this site.

    Args:
        degrees: one rank where left out.
        shared: the ranks share the weights out.
    """
    given = site.given
    parallel = given.parallel.with_degrees(degrees or Degrees()).model_copy(update={"shard_weights": shared})
    model = given.model.model_copy(update={"dtype": dtype, "text_encoder_dtype": dtype, "vae_dtype": "float32"})
    limits = {"load_timeout_seconds": JOIN_SECONDS, "step_timeout_seconds": JOIN_SECONDS}
    runtime = given.runtime.model_copy(update={"device": site.kind, "audit": audit, **limits})
    return given.model_copy(update={"parallel": parallel, "model": model, "runtime": runtime})


@contextmanager
def loaded(config: JobConfig) -> Iterator[Engine]:
    """An engine of the small model inside; collective over the layout's ranks, which join and leave."""
    from engine.engine import Engine
    from parallel.ranks import leave

    try:
        engine = Engine.load(config)
        yield engine
    finally:
        leave()


def make(engine: Engine, request: GenerationRequest, **others: Any) -> Made:
    """The latents of a request, and what was done at each step; collective over the replica."""
    from engine.generation.report import latents_sha256

    result = engine.generate(request, **others)
    rows = result.report["steps"] if result.report else []
    actions = [(row["step"], row["branch"], row["action"]) for row in rows]
    return Made(result.latents.float().cpu(), actions, latents_sha256(result.latents))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what was expected; infinite where it is not a number."""
    error = float((found.double() - expected.double()).norm() / expected.double().norm())
    return error if error == error else float("inf")


def first_difference(found: Actions, expected: Actions) -> str:
    """Where two lists of actions differ, in words; "" if they do not."""
    if len(found) != len(expected):
        return f"{len(found)} steps of branches, not {len(expected)}"
    for (step, branch, one), (_, _, other) in zip(found, expected, strict=True):
        if one != other:
            return f"step {step} of branch {branch} is {one}, not {other}"
    return ""
