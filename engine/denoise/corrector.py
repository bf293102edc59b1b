"""Repeats the sampler's skipped steps with better velocities, once the computed step after them is known.

A skipped step's velocity is extrapolated from computed steps before it. With the next computed step it can be
interpolated, which has an error several times smaller. So the sampler is restored to its state before the first skipped
step, and takes the skipped steps again with interpolated velocities. No transformer block runs for that, and nothing is
sent: latents and guided velocities are the same on every rank. It is a corrector as in multistep solvers (for
diffusion: UniPC, Zhao et al. 2023, arXiv 2302.04867, section 3.1), over the gaps that a cache leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor

from dicache.controller import Lane, Plan, Step
from engine.components.samplers import Scheduler, restore_scheduler, scheduler_state

POINTS = 3
"""Computed velocities to interpolate from: that after the gap, that before it, and older ones."""
CARRIED = 0.5
"""How far the velocity v just computed follows the correction of the latents x: v changes by CARRIED / sigma times the
change of x. With 1 the predicted clean latents x - sigma v would stay the same, with 0 the velocity would. The truth is
between them, since a change of the latents is in part noise, which the model predicts, and in part picture."""


class Corrector:
    """Takes the sampler's steps of one request, and corrects them; its state is equal on every rank."""

    def __init__(
        self,
        scheduler: Scheduler,
        starts: Collection[int],
        carry: Callable[[Tensor], None],
    ) -> None:
        """
        Args:
            scheduler: with its timesteps set.
            starts: each expert's first step; velocities of different experts are not interpolated.
            carry: called with the change of the guided velocity just computed, in the shape of the latents.
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
        """Take one sampler step; if it is a computed step after skipped ones, repeat those first.

        Args:
            latents, velocity: [samples, channels, frames, height, width], the velocity guided.

        Returns:
            The latents after the step, in the same shape.
        """
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
        else:  # some lanes estimated and some computed: no velocity is exact for all, so the gap cannot be corrected
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
        """Plain values and tensors, for :meth:`restore`."""
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
        """Bytes of the tensors that are kept between steps: whole latents and velocities, on every rank."""
        state = self.state
        kept = [item for value in state.values() for item in (value if isinstance(value, list) else [value])]
        return sum(item.nbytes for item in kept if isinstance(item, Tensor))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the :attr:`state` of another corrector."""
        scheduler = {name.removeprefix("scheduler."): v for name, v in state.items() if name.startswith("scheduler.")}
        self._gap = list(state["gap"])
        self._known = list(zip(state["known"], state["velocities"], strict=True))
        self._before = None if state["latents"] is None else (state["latents"], scheduler)


def lagrange(points: Sequence[float], at: float) -> list[float]:
    """Lagrange's weights of the values at distinct ``points``, whose sum is the interpolating polynomial at ``at``."""
    return [
        prod((at - other) / (point - other) for j, other in enumerate(points) if j != i)
        for i, point in enumerate(points)
    ]


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of its lists. The scheduler overwrites their entries, but never the tensors in them."""
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}
