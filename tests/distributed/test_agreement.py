"""I1: every rank takes the same decision at every step, whatever happens on one of them."""

import copy
import math
import time
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from dicache.controller import Controller, Lane, Step
from engine.config import Config
from engine.engine import Engine, Result
from engine.execution.loaded import load_model
from engine.models.wan import WanActivations, WanAdapter
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel.agreement import Agreed, Agreement, DivergedError
from parallel.control import Control
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks, set_timeouts
from tests.support.gang import Gang
from tests.support.small_model import PROMPT, tiny_config
from tests.support.toy import only

LAYOUTS = [Degrees(ulysses=2), Degrees(ring=3), Degrees(cfg=2, ulysses=2)]
COND = Lane(0, "cond")


def request_for(config: Config) -> GenerationRequest:
    return make_request([PROMPT], "", 7, config.sampling)


def generate(ranks: Ranks, config: Config) -> Result:
    return Engine(load_model(config, ranks), Progress()).generate(request_for(config))


class Alone:
    """Records, beside each step's decision, what this rank would have decided from its own tokens."""

    def __init__(self) -> None:
        self.decisions: list[dict[Lane, Any]] = []
        self.agreed: list[dict[Lane, Any]] = []
        self._partials: dict[Lane, list[float]] = {}

    def generate(self, ranks: Ranks, config: Config) -> "Alone":
        measure, decide = Controller.partial_sums, Controller.decide

        def partial_sums(controller: Controller, step: Step, lane: Lane, *measured: Any) -> Tensor:
            sums = measure(controller, step, lane, *measured)
            self._partials[lane] = sums.tolist()
            return sums

        def decide_both(controller: Controller, step: Step, sums: dict[Lane, Any]) -> dict[Lane, Any]:
            alone, plans = decide(copy.deepcopy(controller), step, self._partials), decide(controller, step, sums)
            self.decisions.append({lane: only(plan) for lane, plan in alone.items()})
            self.agreed.append(plans)
            return plans

        with (
            mock.patch.object(Controller, "partial_sums", partial_sums),
            mock.patch.object(Controller, "decide", decide_both),
        ):
            generate(ranks, config)
        return self


def record_alone(ranks: Ranks, config: Config) -> Alone:
    return Alone().generate(ranks, config)


def straddling_threshold(gang: Gang, degrees: Degrees) -> float:
    """A threshold between what two ranks' own tokens say at the first step past the warm-up."""
    alone = gang.run(record_alone, degrees, tiny_config("cache.threshold=1000"))
    first = next(i for i, decisions in enumerate(alone[0].decisions) if decisions[COND].action == "skip")
    own = [rank.decisions[first][COND].accumulated for rank in alone]
    assert max(own) > 1.01 * min(own), f"ranks see nearly the same change: {own}"
    return (max(own) + min(own)) / 2


@pytest.mark.parametrize("degrees", [Degrees(ulysses=2), Degrees(ring=3)], ids=str)
def test_ranks_that_would_decide_differently_decide_together(gang: Gang, degrees: Degrees) -> None:
    threshold = straddling_threshold(gang, degrees)
    alone = gang.run(record_alone, degrees, tiny_config(f"cache.threshold={threshold}"))
    own = [[d[COND].action for d in rank.decisions] for rank in alone]
    assert any(actions != own[0] for actions in own), "the case shows nothing if ranks alone agree"
    for rank in alone:
        assert rank.agreed == alone[0].agreed


def generate_without_agreement(ranks: Ranks, config: Config) -> Result:
    def only_mine(agreement: Agreement, *, sums: Tensor, **_: Any) -> Agreed:
        return Agreed(tuple(sums.tolist()), Control.RUN)

    with mock.patch.object(Agreement, "agree", only_mine):
        return generate(ranks, config)


def test_without_the_agreement_the_same_case_falls_apart(gang: Gang) -> None:
    degrees = Degrees(ulysses=2)
    threshold = straddling_threshold(gang, degrees)
    config = tiny_config(f"cache.threshold={threshold}", "runtime.step_timeout_seconds=2")
    outcomes = gang.outcomes(generate_without_agreement, degrees, config, timeout_seconds=30)
    assert any(outcome.error for outcome in outcomes), "ranks that decide alone must run into one another"


def generate_perturbed(ranks: Ranks, config: Config, directions: tuple[float, ...]) -> Result:
    """Nudge this rank's partial sums by one unit in the last place, numerator and denominator against each other."""
    measure = Controller.partial_sums
    towards = directions[ranks.rank] * math.inf

    def nudged(controller: Controller, step: Step, lane: Lane, *measured: Any) -> Tensor:
        sums = measure(controller, step, lane, *measured)
        alternating = torch.tensor([towards if i % 2 == 0 else -towards for i in range(len(sums))])
        return torch.nextafter(sums, alternating.double())

    with mock.patch.object(Controller, "partial_sums", nudged):
        return generate(ranks, config)


def test_a_threshold_on_the_last_bit_is_decided_alike_on_all_ranks(gang: Gang) -> None:
    degrees, one_branch = Degrees(ulysses=2), "sampling.guidance=1"
    steps = gang.run(generate, degrees, tiny_config("cache.threshold=1000", one_branch))[0].report["steps"]
    exact = next(row["accumulated"] for row in steps if row["action"] == "skip")
    config = tiny_config(f"cache.threshold={exact!r}", one_branch)
    seen = set()
    for directions in [(1, 1), (-1, -1), (1, -1), (-1, 1)]:
        results = gang.run(generate_perturbed, degrees, config, directions)
        assert torch.equal(results[0].latents, results[1].latents)
        seen.add(tuple(row["action"] for row in results[0].report["steps"]))
    assert len(seen) > 1, "a nudge of one bit must be able to flip a decision, else the case shows nothing"


def reduce_unevenly(ranks: Ranks, rounds: int) -> tuple[bool, bool]:
    """Whether all ranks got the same bits from plain rank-dependent summation, and from the agreement."""
    generator = torch.Generator().manual_seed(ranks.rank)
    agreement = Agreement(ranks, CollectiveMeter())
    naive, agreed = [], []
    for step in range(rounds):
        sums = torch.rand(3, dtype=torch.float64, generator=generator) * 10.0 ** (ranks.rank * 3)
        everyone = agreement._gather(sums)
        naive.append(sum(everyone.roll(ranks.rank, dims=0).unbind()).tolist())  # as a ring reduces: from itself on
        agreed.append(
            agreement.agree(
                step=step,
                expected_tokens=ranks.replica_size,
                num_tokens=1,
                sums=sums,
                finite=torch.tensor(True),
            ).sums
        )
    return naive, agreed  # type: ignore[return-value]


def test_a_reduction_whose_order_depends_on_the_rank_differs_and_the_agreement_does_not(gang: Gang) -> None:
    results = gang.run(reduce_unevenly, Degrees(ulysses=4), 50)
    assert any(naive != results[0][0] for naive, _ in results), "the injected rounding must differ somewhere"
    assert all(agreed == results[0][1] for _, agreed in results)


def generate_poisoned(ranks: Ranks, config: Config, rank: int, step: int) -> str:
    """Put a NaN into one rank's activations at one step, and say what was raised."""
    calls = iter(range(10_000))
    blocks = WanAdapter.blocks

    def poisoned(adapter: WanAdapter, activations: WanActivations, start: int, stop: int) -> WanActivations:
        out = blocks(adapter, activations, start, stop)
        is_probe = start == 0 and stop < adapter.num_blocks
        if ranks.rank == rank and is_probe and next(calls) == step:
            hidden_states = out.hidden_states.clone()
            hidden_states[0, 0, 0] = math.nan
            out = replace(out, hidden_states=hidden_states)
        return out

    with mock.patch.object(WanAdapter, "blocks", poisoned):
        try:
            generate(ranks, config)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.parametrize("method", ["dicache", "fbcache", "interval"])
@pytest.mark.parametrize("degrees", [Degrees(ulysses=2), Degrees(cfg=2)], ids=str)
def test_a_nan_on_one_rank_is_one_error_on_all(gang: Gang, degrees: Degrees, method: str) -> None:
    config = tiny_config(f"cache.method={method}", "sampling.guidance=1" if degrees.cfg == 1 else "sampling.guidance=5")
    messages = gang.run(generate_poisoned, degrees, config, 1, 4)
    assert messages[0].startswith("NotFiniteError")
    assert "rank 1" in messages[0]
    assert len(set(messages)) == 1


def generate_late(ranks: Ranks, config: Config, seconds: float) -> Result:
    decide = Controller.decide

    def dawdle(controller: Controller, step: Step, sums: Any) -> Any:
        if ranks.rank == 1 and step.index == 5:
            time.sleep(seconds)
        return decide(controller, step, sums)

    with mock.patch.object(Controller, "decide", dawdle):
        return generate(ranks, config)


def test_a_late_rank_is_waited_for_and_changes_nothing(gang: Gang) -> None:
    config = tiny_config()
    results = gang.run(generate_late, Degrees(ulysses=2), config, 1.5)
    assert torch.equal(results[0].latents, gang.run(generate, Degrees(ulysses=2), config)[0].latents)


def test_a_rank_that_is_too_late_ends_all_within_the_step_timeout(gang: Gang) -> None:
    config = tiny_config("runtime.step_timeout_seconds=2")
    started = time.monotonic()
    outcomes = gang.outcomes(generate_late, Degrees(ulysses=2), config, 12.0, timeout_seconds=40)
    assert all(outcome.error for outcome in outcomes)
    assert "late" not in [outcome.error for outcome in outcomes], "no rank may hang"
    assert time.monotonic() - started < 30


def agree_at(ranks: Ranks, steps: tuple[int, ...], tokens: tuple[int, ...]) -> str:
    set_timeouts(5)
    try:
        Agreement(ranks, CollectiveMeter()).agree(
            step=steps[ranks.rank],
            expected_tokens=20,
            num_tokens=tokens[ranks.rank],
            sums=torch.zeros(0, dtype=torch.float64),
            finite=torch.tensor(True),
        )
    except DivergedError as error:
        return str(error)
    return "agreed"


def test_ranks_at_different_steps_or_with_missing_tokens_are_told_apart(gang: Gang) -> None:
    assert gang.run(agree_at, Degrees(ulysses=2), (3, 3), (10, 10)) == ["agreed"] * 2
    for message in gang.run(agree_at, Degrees(ulysses=2), (3, 4), (10, 10)):
        assert "rank 0 at step 3, rank 1 at step 4" in message
    for message in gang.run(agree_at, Degrees(ulysses=2), (3, 3), (10, 9)):
        assert "counted 19 tokens" in message


@pytest.mark.parametrize("degrees", LAYOUTS, ids=str)
def test_a_batch_of_two_prompts_decides_alike_everywhere(gang: Gang, degrees: Degrees) -> None:
    config = tiny_config("cache.threshold=0.3")
    results = gang.run(generate_batch, degrees, config)
    alone = generate_batch(Ranks(), config)
    for result in results:
        assert torch.equal(result.latents, results[0].latents)
    assert (results[0].latents - alone.latents).abs().max() < 1e-5 * alone.latents.abs().max()
    keys = ("step", "sample", "branch", "action")
    rows, expected = ([[row[k] for k in keys] for row in r.report["steps"]] for r in (results[0], alone))
    assert rows == expected


def generate_batch(ranks: Ranks, config: Config) -> Result:
    request = make_request([PROMPT, "a blue square moving up on a navy background"], "", 7, config.sampling)
    return Engine(load_model(config, ranks), Progress()).generate(request)
