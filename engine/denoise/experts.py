"""Which transformer takes which denoise steps: Wan 2.2 A14B has one for high noise and one for low noise.

A model with one transformer has one expert, which takes all steps. Experts share nothing but the latents: each has
its own conditions, guidance and cache, and the cache of one expert is freed before the next one begins.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from dicache.controller import Step
from engine.denoise.predictor import Prediction, VelocityPredictor


def split_steps(timesteps: Tensor, boundary: float | None) -> tuple[range, ...]:
    """The steps of each expert, in order; an expert may have none.

    Args:
        timesteps: of all steps, falling, [steps].
        boundary: the first expert takes the timesteps from here up, the second those below, as in diffusers' Wan
            pipelines; None if there is one expert.
    """
    num_steps = len(timesteps)
    if boundary is None:
        return (range(num_steps),)
    num_high = int((timesteps >= boundary).sum())
    return range(num_high), range(num_high, num_steps)


class Experts:
    """Hands each step of a request to the predictor of its expert."""

    def __init__(self, spans: Sequence[range], make: Callable[[int], VelocityPredictor]) -> None:
        """
        Args:
            spans: the steps of each expert, from :func:`split_steps`.
            make: the predictor of an expert by its number; called at the expert's first step, because only then its
                weights are on the device.
        """
        self._spans = spans
        self._make = make
        self._number: int | None = None
        self._predictor: VelocityPredictor

    def predict(self, latents: Tensor, timestep: Tensor, step: Step) -> Prediction:
        """As :meth:`VelocityPredictor.predict`."""
        number = next(i for i, span in enumerate(self._spans) if step.index in span)
        if number != self._number:
            self._predictor, self._number = self._make(number), number
        return self._predictor.predict(latents, timestep, step)

    def carry(self, added: Tensor) -> None:
        """As :meth:`VelocityPredictor.carry`, by the expert of the last step."""
        self._predictor.carry(added)

    def finish(self, latents: Tensor) -> Tensor:
        """As :meth:`VelocityPredictor.finish`, by the expert of the last step."""
        return self._predictor.finish(latents)
