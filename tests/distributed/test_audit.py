"""The audit names the rank, the step and the thing that differs, on all ranks alike."""

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import engine.denoise.conditions
import engine.denoise.predictor
from dicache.estimators.alignment import Alignment
from engine.config import Config
from engine.denoise.guidance import combine
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.small_model import PROMPT, tiny_config


def generate(ranks: Ranks, config: Config, prompts: tuple[str, ...] = (PROMPT,)) -> float | str:
    engine = Engine(load_model(config, ranks), Progress())
    try:
        return engine.generate(make_request(prompts, "", 7, config.sampling)).latents.sum().item()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def generate_with_a_wrong_element(ranks: Ranks, config: Config, rank: int, step: int) -> float | str:
    """One element of one rank's velocity is off by a thousandth at one step."""
    steps = iter(range(1000))

    def err(*args: Any) -> Tensor:
        velocity = combine(*args)
        if next(steps) == step and ranks.rank == rank:
            velocity = velocity.clone()
            velocity[0, 0, 0, 0, 0] += 1e-3
        return velocity

    with mock.patch.object(engine.denoise.predictor, "combine", err):
        return generate(ranks, config)


def generate_with_another_gamma(ranks: Ranks, config: Config, rank: int) -> float | str:
    estimate = Alignment.estimate

    def lean(alignment: Alignment, *args: Any) -> Any:
        found = estimate(alignment, *args)
        return found if ranks.rank != rank else replace(found, coefficients=found.coefficients[::-1])

    with mock.patch.object(Alignment, "estimate", lean):
        return generate(ranks, config)


AUDITED = ("runtime.audit=true", "cache.threshold=0.3")


@pytest.mark.parametrize("degrees", [Degrees(ring=3), Degrees(cfg=2, ulysses=2)], ids=str)
def test_a_sound_run_passes_and_is_unchanged(gang: Gang, degrees: Degrees) -> None:
    audited = gang.run(generate, degrees, tiny_config(*AUDITED))
    assert audited == gang.run(generate, degrees, tiny_config("cache.threshold=0.3"))
    assert isinstance(audited[0], float)


def test_one_element_on_one_rank_is_found_at_its_step(gang: Gang) -> None:
    messages = gang.run(generate_with_a_wrong_element, Degrees(ring=3), tiny_config(*AUDITED), 1, 5)
    assert messages[0].startswith("DivergedError: The latents of rank 1 differ")
    assert "step 5" in messages[0]
    assert len(set(messages)) == 1
    unaudited = gang.run(generate_with_a_wrong_element, Degrees(ring=3), tiny_config("cache.threshold=0.3"), 1, 5)
    assert all(isinstance(value, float) for value in unaudited), "without the audit nobody would have noticed"


def test_a_decision_that_differs_is_named_as_one(gang: Gang) -> None:
    messages = gang.run(generate_with_another_gamma, Degrees(ulysses=2, ring=2), tiny_config(*AUDITED), 2)
    assert messages[0].startswith("DivergedError: The decisions of rank 2 differ")
    assert len(set(messages)) == 1


def generate_with_another_prompt(ranks: Ranks, config: Config, rank: int, prompts: tuple[str, ...]) -> float | str:
    """One rank's copy of what the prompt became is damaged, after all ranks had it alike."""
    received = engine.denoise.conditions.broadcast_from_first

    def damaged(*args: Any) -> Any:
        *lanes, images = received(*args)
        if ranks.rank == rank:
            lanes[0] = {name: tensor + 1e-3 for name, tensor in lanes[0].items()}
        return [*lanes, images]

    with mock.patch.object(engine.denoise.conditions, "broadcast_from_first", damaged):
        return generate(ranks, config, prompts)


def generate_with_a_wrong_weight(ranks: Ranks, config: Config, rank: int) -> float | str:
    model = load_model(config, ranks)
    if ranks.rank == rank:
        with torch.no_grad():
            model.adapter.transformer.blocks[3].ffn.net[2].bias[0] += 1e-3
    try:
        return Engine(model, Progress()).generate(make_request([PROMPT], "", 7, config.sampling)).latents.sum().item()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def test_what_goes_into_the_model_is_compared_since_gathered_latents_hide_it(gang: Gang) -> None:
    config = tiny_config(*AUDITED, "sampling.steps=4")
    messages = gang.run(generate_with_another_prompt, Degrees(ring=3), config, 1, (PROMPT,))
    assert messages[0].startswith("DivergedError: The prompt_embeds of cond of rank 1 differ")
    assert "before the first denoise step" in messages[0] and len(set(messages)) == 1

    messages = gang.run(generate_with_another_prompt, Degrees(ring=3), config, 1, (PROMPT, "a blue square"))
    assert messages[0].startswith("DivergedError: The prompt_embeds of sample 0 cond of rank 1 differ")

    messages = gang.run(generate_with_a_wrong_weight, Degrees(ring=3), config, 2)
    assert messages[0].startswith(
        "DivergedError: The weights blocks.3.ffn.net.2.bias of transformer 0 of rank 2 differ"
    )
    assert len(set(messages)) == 1
    unaudited = gang.run(generate_with_a_wrong_weight, Degrees(ring=3), tiny_config("sampling.steps=4"), 2)
    assert len(set(unaudited)) == 1, "without the audit all ranks hold the same latents, which are wrong"
