"""Going back over skipped steps, once the computed step after them is known.

A skipped step's velocity is extrapolated from computed ones before it; the next computed step turns that into an
interpolation, which misses several times less. So the sampler is put back to where the skipping began and led over the
skipped steps once more, with velocities interpolated between the computed ones on both sides. No block runs for that
and nothing is exchanged: latents and guided velocities are the same on every rank. A corrector as multistep solvers
have it (for diffusion: UniPC, arXiv 2302.04867, section 3.1), here over the gaps that a cache leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor

from dicache.controller import Lane, Plan, Step
from engine.components.samplers import Scheduler, restore_scheduler, scheduler_state

POINTS = 3
"""Computed velocities that one is interpolated from: that after the gap, that before it, and older ones."""
CARRIED = 0.5
"""Of a change of the latents, what a velocity that was computed before it is taken to follow: 1 keeps the clean latents
x - sigma v that the model foretold, 0 its velocity. What is new in the latents is in part noise, which the model takes
out again, and in part picture, which it keeps."""


class Corrector:
    """The sampler's steps, corrected. One request's; equal on every rank."""

    def __init__(
        self,
        scheduler: Scheduler,
        starts: Collection[int],
        carry: Callable[[Tensor], None],
    ) -> None:
        """
        Args:
            scheduler: with its timesteps set.
            starts: each expert's first step; what is before one is not mixed with what comes after it.
            carry: told what is added to the guided velocity just computed, of the shape of the latents.
        """
        self._scheduler = scheduler
        self._starts = starts
        self._carry = carry
        self._known: list[tuple[int, Tensor]] = []  # computed steps and their guided velocities, newest first
        self._gap: list[int] = []
        self._before: tuple[Tensor, dict[str, Any]] | None = None  # the gap: latents and sampler

    def advance(
        self, step: Step, timestep: Tensor, latents: Tensor, velocity: Tensor, plans: Mapping[Lane, Plan]
    ) -> Tensor:
        """What the sampler makes of the latents with that guided velocity, [samples, channels, frames, height, width],
        after a computed step as if the skipped ones before it had been better known."""
        if step.index in self._starts:
            self._known, self._gap, self._before = [], [], None
        estimated = {plan.is_estimated for plan in plans.values()}
        if estimated == {False}:
            latents, velocity = self._corrected(step, latents, velocity.to(latents.dtype))
            self._known = [(step.index, velocity), *self._known][:POINTS]
        following: Tensor = self._scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        if estimated == {False}:
            self._gap, self._before = [], (following, _copied(scheduler_state(self._scheduler)))
        elif estimated == {True}:
            self._gap.append(step.index)
        else:  # lanes went different ways: no velocity holds for all, and a gap that has begun cannot be mended
            self._known, self._gap, self._before = [], [], None
        return following

    def _corrected(self, step: Step, latents: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        if not self._gap or self._before is None:
            return latents, velocity
        around = [(step.index, velocity), *self._known][:POINTS]
        sigmas = [float(self._scheduler.sigmas[index]) for index, _ in around]
        better, state = self._before
        restore_scheduler(self._scheduler, state)
        for index in self._gap:
            weights = lagrange(sigmas, float(self._scheduler.sigmas[index]))
            between = sum(weight * known for weight, (_, known) in zip(weights, around, strict=True))
            better = self._scheduler.step(between, self._scheduler.timesteps[index], better, return_dict=False)[0]
        carried = (CARRIED / step.sigma) * (better - latents)
        self._carry(carried)
        return better, velocity + carried

    @property
    def state(self) -> dict[str, Any]:
        """Plain values and tensors, from which :meth:`restore` goes on."""
        latents, scheduler = self._before or (None, {})
        return {
            "gap": list(self._gap),
            "known": [index for index, _ in self._known],
            "velocities": [velocity for _, velocity in self._known],
            "latents": latents,
            **{f"scheduler.{name}": value for name, value in scheduler.items()},
        }

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept between steps: whole latents, on every rank."""
        state = self.state
        kept = [item for value in state.values() for item in (value if isinstance(value, list) else [value])]
        return sum(item.nbytes for item in kept if isinstance(item, Tensor))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from another corrector's state."""
        scheduler = {name.removeprefix("scheduler."): v for name, v in state.items() if name.startswith("scheduler.")}
        self._gap = list(state["gap"])
        self._known = list(zip(state["known"], state["velocities"], strict=True))
        self._before = None if state["latents"] is None else (state["latents"], scheduler)


def lagrange(points: Sequence[float], at: float) -> list[float]:
    """Weights of the values at distinct ``points`` that give, at ``at``, the polynomial through them."""
    return [
        prod((at - other) / (point - other) for j, other in enumerate(points) if j != i)
        for i, point in enumerate(points)
    ]


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler writes into its lists, never into their tensors."""
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}
