"""Which expert takes which step, and whose weights are on the device; the whole engine is in test_two_experts.py."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from dicache.controller import Step
from engine.denoise.experts import Experts, split_steps
from engine.execution.residency import Residency


@pytest.mark.parametrize("shift", [3.0, 5.0, 12.0])
@pytest.mark.parametrize("kind", ["unipc", "euler"])
def test_the_steps_are_split_as_diffusers_splits_them(kind: str, shift: float) -> None:
    if kind == "unipc":
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    else:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(40)
    for ratio in (0.875, 0.9, float(scheduler.timesteps[7]) / 1000):
        high, low = split_steps(scheduler.timesteps, ratio * 1000)
        assert [*high, *low] == list(range(40))
        for index, timestep in enumerate(scheduler.timesteps):
            assert (index in high) == bool(timestep >= ratio * 1000)
    assert len(high) == 8, "a timestep at the boundary belongs to the first expert"


def test_an_expert_may_have_no_steps_and_a_model_without_a_boundary_has_one_expert() -> None:
    timesteps = torch.tensor([900, 600, 300])
    assert split_steps(timesteps, None) == (range(3),)
    assert split_steps(timesteps, 0.0) == (range(3), range(3, 3))
    assert split_steps(timesteps, 1000.0) == (range(0), range(3))


class Recorded:
    """Stands for an expert's predictor."""

    def __init__(self, number: int, calls: list[tuple[int, int]]) -> None:
        self.number, self.calls = number, calls

    def predict(self, latents: torch.Tensor, timestep: torch.Tensor, step: Step) -> int:
        self.calls.append((self.number, step.index))
        return self.number

    def finish(self, latents: torch.Tensor) -> int:
        return self.number


@pytest.mark.parametrize("spans", [(range(2), range(2, 5)), (range(0), range(5)), (range(5), range(5, 5)), (range(5),)])
def test_each_step_goes_to_its_expert_which_is_made_when_its_first_step_comes(spans: tuple[range, ...]) -> None:
    calls: list[tuple[int, int]] = []
    made: list[tuple[int, int]] = []

    def make(number: int) -> Recorded:
        made.append((number, len(calls)))
        return Recorded(number, calls)

    experts = Experts(spans, make)  # type: ignore[arg-type]
    for index in range(5):
        experts.predict(torch.zeros(1), torch.tensor(0), Step(index, 1.0, 0.5))
    assert calls == [(number, index) for number, span in enumerate(spans) for index in span]
    assert made == [(number, span.start) for number, span in enumerate(spans) if span]
    assert experts.finish(torch.zeros(1)) == calls[-1][0]


class Turns:
    """Weights of one transformer, which say what is asked of them."""

    def __init__(self, number: int, said: list[tuple[int, str]]) -> None:
        self._number, self._said = number, said

    def bring(self) -> None:
        self._said.append((self._number, "comes"))

    def drop(self) -> None:
        self._said.append((self._number, "goes"))

    def on_device(self, number: int) -> None:
        raise AssertionError


def test_leaving_comes_before_entering_and_what_is_there_stays() -> None:
    said: list[tuple[int, str]] = []
    places = Residency([Turns(0, said), Turns(1, said)])
    for number in (1, 1, 0):
        places.use(number)
    assert said == [(0, "goes"), (1, "comes"), (1, "goes"), (0, "comes")]
    Residency().use(1)
