"""The layout of a run: what the configuration says, the model allows and the machine has, brought together."""

from __future__ import annotations

import math

from engine.config import Config, SamplingConfig
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from parallel.config import ParallelConfig
from parallel.placement import Placement, place


def lay_out(
    config: Config,
    sampling: SamplingConfig,
    facts: ModelFacts,
    ranks: int | None,
    *,
    nodes: int | None = None,
    local_ranks: int | None = None,
) -> Placement:
    """The degrees of a run, and why.

    Args:
        sampling: of sizes that the model can have.
        ranks: the world size; None for what the given degrees multiply to, or, where the layout is chosen for
            the machine, for all its devices.
        nodes: machines that the ranks are spread over; by default as many as take ``local_ranks`` each.
        local_ranks: ranks on this machine; as many as on every other if None.

    Raises:
        InvalidInput: one sentence that names the value and what to do instead.
    """
    _check_cfg(config, sampling, facts)
    if ranks is None and config.parallel.is_auto:
        ranks = max(_product_of_given(config.parallel), _count_devices(config.runtime.device))
    if nodes is None:
        nodes = math.ceil(ranks / local_ranks) if ranks and local_ranks else 1
    try:
        return place(
            config.parallel,
            ranks,
            num_heads=facts.num_heads,
            num_tokens=math.prod(facts.token_grid(sampling.frames, sampling.height, sampling.width)),
            guided=facts.num_branches(sampling.guidance) == 2,
            nodes=nodes,
            devices=local_ranks,
        )
    except ValueError as error:
        raise InvalidInput(str(error)) from None


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
