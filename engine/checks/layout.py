"""The layout of a run, from the configuration, the model and the machine."""

from __future__ import annotations

import math
from dataclasses import replace

from engine.checks.memory import memory_check
from engine.config import Config, SamplingConfig
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from parallel.config import ParallelConfig
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.placement import Placement, Work, find_placement


def lay_out(
    config: Config, sampling: SamplingConfig, facts: ModelFacts, place: Place, videos: int | None = None
) -> Placement:
    """The degrees of a run, and why.

    Args:
        sampling: of sizes that the model can have.
        videos: to make, where that is known; the goal throughput wants it.

    Raises:
        InvalidInput: one sentence that names the value and what to do instead.
    """
    _check_cfg(config, sampling, facts)
    ranks, nodes = place.ranks, place.nodes
    if ranks is None and (config.parallel.is_auto or config.parallel.seeks_replicas):
        ranks = max(_product_of_given(config.parallel), _count_devices(config.runtime.device))
    if nodes is None:
        nodes = math.ceil(ranks / place.local_ranks) if ranks and place.local_ranks else 1

    try:
        return find_placement(
            config.parallel,
            replace(place, ranks=ranks, nodes=nodes),
            num_heads=facts.num_heads,
            num_tokens=math.prod(facts.token_grid(sampling.frames, sampling.height, sampling.width)),
            guided=facts.num_branches(sampling.guidance) == 2,
            work=Work(videos, memory_check(config, sampling, facts, place))
            if config.parallel.seeks_replicas
            else Work(),
        )
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def check_goal(config: Config, num_tasks: int) -> None:
    """Refuse to choose replicas for a list of videos that is not known.

    Raises:
        InvalidInput: one sentence that says what to do instead.
    """
    if config.parallel.seeks_replicas and not num_tasks:
        raise InvalidInput(
            "parallel.goal is throughput, but ranks that take one job after another do not know how many videos each "
            "will have: give parallel.data, start several gangs, or use parallel.goal=latency."
        )


def check_replicas(degrees: Degrees, num_tasks: int) -> None:
    """Refuse replicas that would have nothing to do.

    Raises:
        InvalidInput: one sentence that names the value and what to do instead.
    """
    if degrees.data > num_tasks:
        raise InvalidInput(
            f"parallel.data is {degrees.data}, but there {'is' if num_tasks == 1 else 'are'} {num_tasks} "
            f"video{'' if num_tasks == 1 else 's'} to make, so some replicas would have nothing to do: give more "
            f"prompts or seeds, or use parallel.data={num_tasks} and cfg, ulysses or ring."
        )


def _check_cfg(config: Config, sampling: SamplingConfig, facts: ModelFacts) -> None:
    if config.parallel.cfg != 2 or facts.num_branches(sampling.guidance) == 2:
        return
    if facts.guidance_distilled:
        raise InvalidInput(
            f"parallel.cfg is 2, but the {facts.pipeline} in {config.model.path} has its guidance distilled into the "
            "weights (guidance_embeds) and computes 1 branch a step, not 2: use parallel.cfg=1."
        )
    raise InvalidInput(
        f"parallel.cfg is 2, but sampling.guidance is {sampling.guidance:g}, which leaves one branch: "
        "use parallel.cfg=1 or guidance above 1."
    )


def _product_of_given(parallel: ParallelConfig) -> int:
    return math.prod(degree or 1 for degree in (parallel.data, parallel.cfg, parallel.ulysses, parallel.ring))


def _count_devices(kind: str) -> int:
    """Ranks that this machine can run on devices of their own; its CPU counts as one."""
    if kind == "cpu":
        return 1
    import torch  # seconds: only where the layout depends on it

    return max(1, torch.cuda.device_count())
