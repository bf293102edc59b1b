"""Which expert takes which step, and whose weights are on the device; the whole engine is in test_two_experts.py."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from dicache.controller import Step
from engine.denoise.experts import Experts, split_steps
from engine.execution import residency
from engine.execution.residency import Residency, fits, weight_bytes


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


def test_the_expert_that_is_not_in_use_waits_in_the_hosts_memory() -> None:
    """The meta device stands for a GPU: it is another device, and a transformer that was there has lost its data."""
    transformers = [torch.nn.Linear(3, 3) for _ in range(2)]
    places = Residency(transformers, torch.device("meta"), together=False)
    places.use(0)
    assert [t.weight.device.type for t in transformers] == ["meta", "cpu"]
    together = Residency(transformers, torch.device("meta"), together=True)
    together.use(1)
    assert [t.weight.device.type for t in transformers] == ["meta", "cpu"], "nothing moves where all were placed"


def test_leaving_comes_before_entering(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[tuple[int, str]] = []

    class Noted(torch.nn.Linear):
        def to(self, device: object) -> "Noted":  # type: ignore[override]
            moves.append((self.in_features, str(device)))
            return self

    places = Residency([Noted(1, 1), Noted(2, 1)], torch.device("cuda", 3), together=False)
    places.use(1)
    places.use(0)
    assert moves == [(1, "cpu"), (2, "cuda:3"), (2, "cpu"), (1, "cuda:3")]


def test_weights_fit_if_they_leave_half_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 100

    monkeypatch.setattr(residency.torch.cuda, "get_device_properties", lambda device: Properties)
    assert fits(50, torch.device("cuda", 0)) and not fits(51, torch.device("cuda", 0))
    assert fits(10**15, torch.device("cpu"))
    module = torch.nn.Linear(3, 4, dtype=torch.bfloat16)
    module.register_buffer("table", torch.zeros(5))
    assert weight_bytes(module) == 2 * (12 + 4) + 4 * 5
