"""Going back over skipped steps: where velocities are a parabola of the noise level, nothing of a bad guess is left."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from dicache.controller import Decision, Lane, Plan, Planned, Segment, Step
from dicache.steps import Action
from engine.denoise import corrector as corrector_module
from engine.denoise.corrector import POINTS, Corrector, lagrange

STEPS = 20
COND, UNCOND = Lane(0, "cond"), Lane(0, "uncond")


def planned(action: Action) -> Plan:
    """A step of a model with three blocks, all of them computed or skipped."""
    return Plan((Planned(Segment(0, 3), Decision(action)),))


GENERATOR = torch.Generator().manual_seed(0)
NOISE, A, B, C, WRONG = torch.randn((5, 1, 2, 3, 4, 4), generator=GENERATOR)
Velocity = Callable[[float, Tensor], Tensor]


def parabola(sigma: float, latents: Tensor) -> Tensor:
    return A + B * sigma + C * sigma**2


def samplers() -> list[Any]:
    made = [
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
    ]
    for scheduler in made:
        scheduler.set_timesteps(STEPS)
        scheduler.set_begin_index(0)
    return made


def plain(scheduler: Any, velocity: Velocity, skips: Sequence[int] = ()) -> list[Tensor]:
    """Latents after each step."""
    latents, seen = NOISE, []
    for index, timestep in enumerate(scheduler.timesteps):
        given = WRONG if index in skips else velocity(float(scheduler.sigmas[index]), latents)
        latents = scheduler.step(given, timestep, latents, return_dict=False)[0]
        seen.append(latents)
    return seen


def corrected(
    scheduler: Any,
    velocity: Velocity,
    skips: Sequence[int],
    starts: Sequence[int] = (0,),
    uncond_skips: Sequence[int] | None = None,
    told: list[Tensor] | None = None,
    hand_over: int | None = None,
) -> list[Tensor]:
    """The same with a corrector; another one takes over before the step ``hand_over``."""
    carry = (told if told is not None else []).append
    corrector = Corrector(scheduler, starts, carry)
    latents, seen = NOISE, []
    for index, timestep in enumerate(scheduler.timesteps):
        if index == hand_over:
            state, corrector = corrector.state, Corrector(scheduler, starts, carry)
            corrector.restore(state)
        step = Step(index, float(scheduler.sigmas[index]), float(scheduler.sigmas[index + 1]))
        given = WRONG if index in skips else velocity(step.sigma, latents)
        plans = {
            COND: planned("skip" if index in skips else "compute"),
            UNCOND: planned("skip" if index in (skips if uncond_skips is None else uncond_skips) else "compute"),
        }
        latents = corrector.advance(step, timestep, latents, given, plans)
        seen.append(latents)
    return seen


@pytest.mark.parametrize("kind", [0, 1], ids=["unipc", "euler"])
def test_what_was_guessed_leaves_no_trace(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A velocity that does not look at the latents and is a parabola is found exactly from three computed ones."""
    monkeypatch.setattr(corrector_module, "CARRIED", 0.0)
    skips = (3, 4, 6, 7, 8, 9, 12, 17)
    truth = plain(samplers()[kind], parabola)
    found = corrected(samplers()[kind], parabola, skips)
    for index, (expected, actual) in enumerate(zip(truth, found, strict=True)):
        if index in skips:
            assert not torch.allclose(actual, expected, atol=1e-3), "nothing can be known yet"
        else:
            torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)


def test_a_velocity_follows_the_latents_half_way() -> None:
    told: list[Tensor] = []
    looked_at: list[Tensor] = []

    def velocity(sigma: float, latents: Tensor) -> Tensor:
        looked_at.append(latents)
        return parabola(sigma, latents)

    scheduler = samplers()[1]
    found = corrected(scheduler, velocity, (3, 4), told=told)
    sigmas = scheduler.sigmas
    euler = plain(samplers()[1], parabola)
    moved = euler[4] - looked_at[3]  # step 5 looked at what the guesses had made
    torch.testing.assert_close(told, [0.5 / float(sigmas[5]) * moved], atol=1e-6, rtol=0)
    expected = euler[4] + (sigmas[6] - sigmas[5]) * (parabola(float(sigmas[5]), moved) + told[0])
    torch.testing.assert_close(found[5], expected, atol=1e-6, rtol=0)


def test_without_gaps_it_is_the_sampler() -> None:
    for plainly, scheduler in zip(samplers(), samplers(), strict=True):
        expected = plain(plainly, lambda sigma, latents: latents * sigma)
        assert all(map(torch.equal, corrected(scheduler, lambda sigma, latents: latents * sigma, ()), expected))


def test_a_gap_of_one_branch_is_left_as_it_is() -> None:
    for plainly, scheduler in zip(samplers(), samplers(), strict=True):
        expected = plain(plainly, parabola, skips=(4, 5))
        assert all(map(torch.equal, corrected(scheduler, parabola, (4, 5), uncond_skips=(5,)), expected))


def test_nothing_crosses_from_one_expert_to_the_next() -> None:
    """Neither a gap at the end of the first nor its velocities, by which the second's first gap would be known."""
    for plainly, scheduler in zip(samplers(), samplers(), strict=True):
        expected = plain(plainly, parabola, skips=(8, 9))
        found = corrected(scheduler, parabola, (8, 9), starts=(0, 10))
        assert all(map(torch.equal, found, expected))
    line = corrected(samplers()[1], parabola, (11,), starts=(0, 10))
    curve = corrected(samplers()[1], parabola, (11,))
    assert not torch.allclose(line[12], curve[12], atol=1e-5)


@pytest.mark.parametrize("hand_over", [4, 5, 6, 8])
def test_goes_on_from_a_state(hand_over: int) -> None:
    """Before, inside, at the end of and after a gap."""
    for whole, broken in zip(samplers(), samplers(), strict=True):
        skips = (4, 5, 9)
        expected = corrected(whole, parabola, skips)
        assert all(map(torch.equal, corrected(broken, parabola, skips, hand_over=hand_over), expected))


def test_counts_what_it_keeps() -> None:
    scheduler = samplers()[1]
    corrector = Corrector(scheduler, (0,), lambda added: None)
    alone = corrector.nbytes
    latents = NOISE
    for index, timestep in enumerate(scheduler.timesteps[:4]):
        step = Step(index, float(scheduler.sigmas[index]), float(scheduler.sigmas[index + 1]))
        latents = corrector.advance(step, timestep, latents, latents, {COND: planned("compute")})
    of_the_sampler = scheduler.sigmas.nbytes + scheduler.timesteps.nbytes
    assert alone == 0 and corrector.nbytes == (POINTS + 1) * NOISE.nbytes + of_the_sampler


def test_weights_give_the_polynomial_through_the_points() -> None:
    points = [0.3, 0.5, 0.9, 0.95][:POINTS]
    for power in range(POINTS):
        weights = lagrange(points, 0.4)
        found = sum(weight * point**power for weight, point in zip(weights, points, strict=True))
        assert found == pytest.approx(0.4**power)
