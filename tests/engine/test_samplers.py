"""What is predicted and at which noise levels follows from the model, whatever its scheduler folder says."""

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from engine.components.samplers import make_hunyuan_scheduler
from engine.components.wan.scheduler import make_wan_scheduler
from engine.config import SamplingConfig
from engine.errors import InvalidInput
from engine.models.facts import read_facts
from engine.models.samplers import sampler_notes
from tests.support.bare_model import edit_json, write_bare_model, write_json
from tests.support.small_model import tiny_config

UNIPC, EULER = "UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"
SHIPPED = {"_class_name": UNIPC, "prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
FILE = "scheduler/scheduler_config.json"
CPU = torch.device("cpu")


def sampling(scheduler: str = "unipc", steps: int = 6) -> SamplingConfig:
    return tiny_config(f"sampling.scheduler={scheduler}", f"sampling.steps={steps}").sampling


def sampled(scheduler: Any) -> torch.Tensor:
    """Latents after all steps with a velocity that depends on them."""
    latents = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps:
        latents = scheduler.step(0.7 * latents + 0.1, timestep, latents, return_dict=False)[0]
    return latents


# settings of folders that say something else than the model: alone, and all the ruin of another class
ODD: list[dict[str, Any]] = [
    {"prediction_type": "epsilon"},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "sample"},
    {"use_flow_sigmas": False},
    {"prediction_type": "epsilon", "use_flow_sigmas": False},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {"use_karras_sigmas": True, "use_beta_sigmas": True},
    {"use_dynamic_shifting": True},
    {"shift_terminal": 0.1},
    {"final_sigmas_type": "sigma_min"},
    {"thresholding": True},
    {"predict_x0": False},
    {"solver_type": "bh1"},
    {"solver_type": "midpoint"},
    {"lower_order_final": False},
    {"flow_shift": 17.0},
    {"flow_shift": None, "shift": 9.0},
    {"beta_schedule": "no such schedule"},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "steps_offset": 1},
    {"_class_name": EULER, "shift": 1.0, "invert_sigmas": True, "stochastic_sampling": True},
    {"_class_name": EULER, "use_karras_sigmas": True},
    {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "prediction_type": "epsilon"},
    {"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 1.0},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_unipc_samples_a_flow(odd: dict[str, Any]) -> None:
    """A UniPC that took the velocity for noise gave latents 228 times too large."""
    expected = sampled(make_wan_scheduler(SHIPPED, sampling(), CPU))
    assert torch.equal(sampled(make_wan_scheduler(SHIPPED | odd, sampling(), CPU)), expected)


@pytest.mark.parametrize(
    "odd", [*ODD, {"_class_name": EULER, "use_dynamic_shifting": True, "shift_terminal": 0.1, "shift": 9.0}], ids=str
)
def test_euler_samples_a_flow(odd: dict[str, Any]) -> None:
    if odd.get("use_karras_sigmas") and odd.get("_class_name") == EULER:
        pytest.skip("a spacing of its own, which is followed")
    for make in (make_wan_scheduler, make_hunyuan_scheduler):
        expected = sampled(make({"_class_name": EULER}, sampling("euler"), CPU))
        assert torch.equal(sampled(make(SHIPPED | odd, sampling("euler"), CPU)), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"solver_order": 3},
        {"solver_order": 1},
        {"disable_corrector": [0, 1]},
    ],
    ids=str,
)
def test_settings_of_unipc_are_those_of_diffusers(settings: dict[str, Any]) -> None:
    ours = make_wan_scheduler(SHIPPED | settings, sampling(), CPU)
    theirs = diffusers.UniPCMultistepScheduler.from_config(SHIPPED | settings, flow_shift=3.0)
    theirs.set_timesteps(6)
    assert torch.equal(ours.timesteps, theirs.timesteps) and torch.equal(ours.sigmas, theirs.sigmas)
    assert torch.equal(sampled(ours), sampled(theirs))


@pytest.mark.parametrize("spacing", [None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_spacings_of_euler_are_those_of_diffusers(spacing: str | None) -> None:
    settings = {"_class_name": EULER, "shift": 3.0} | ({spacing: True} if spacing else {})
    theirs = diffusers.FlowMatchEulerDiscreteScheduler.from_config(settings)
    theirs.set_timesteps(6)
    assert torch.equal(sampled(make_wan_scheduler(settings, sampling("euler"), CPU)), sampled(theirs))
    theirs.set_timesteps(sigmas=np.linspace(1.0, 0.0, 7)[:-1])  # as the pipelines of HunyuanVideo do
    assert torch.equal(sampled(make_hunyuan_scheduler(settings, sampling("euler"), CPU)), sampled(theirs))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_bare_model(tmp_path / "model")


OTHERS = [
    "DDIMScheduler",
    "PNDMScheduler",
    "DDPMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "CosineDPMSolverMultistepScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "SCMScheduler",
    "CogVideoXDPMScheduler",
    "CogVideoXDDIMScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "NoSuchScheduler",
    "UniPCMultistepScheduler ",
    7,
    [UNIPC],
]


@pytest.mark.parametrize("name", OTHERS, ids=str)
def test_a_sampler_that_cannot_be_meant_is_refused(name: object, model: Path) -> None:
    write_json(model / FILE, {"_class_name": name})
    edit_json(model / "model_index.json", scheduler=["diffusers", UNIPC])
    with pytest.raises(InvalidInput, match="not for Wan, whose models predict a flow") as caught:
        read_facts(model)
    assert str(name) in str(caught.value) and FILE in str(caught.value) and UNIPC in str(caught.value)
    write_json(model / FILE, SHIPPED)
    edit_json(model / "model_index.json", scheduler=["diffusers", name])
    with pytest.raises(InvalidInput, match=r"model_index\.json says that the sampler is a"):
        read_facts(model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (SHIPPED | {"num_train_timesteps": 500}, ["num_train_timesteps 500", "1000 noise levels"]),
        (SHIPPED | {"num_train_timesteps": "1000"}, ["num_train_timesteps '1000'"]),
        (SHIPPED | {"num_train_timesteps": True}, ["num_train_timesteps True"]),
        (SHIPPED | {"solver_order": 9}, ["solver_order 9"]),
        (SHIPPED | {"solver_order": True}, ["solver_order True"]),
        (SHIPPED | {"disable_corrector": 3}, ["disable_corrector 3"]),
        (
            {"_class_name": EULER, "use_karras_sigmas": True, "use_beta_sigmas": True},
            ["use_karras_sigmas and use_beta_sigmas", "one"],
        ),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], words: list[str], model: Path) -> None:
    write_json(model / FILE, settings)
    with pytest.raises(InvalidInput) as caught:
        read_facts(model)
    for word in (*words, FILE):
        assert word in str(caught.value)


def test_a_folder_without_a_class(model: Path) -> None:
    write_json(model / FILE, {})
    read_facts(model)  # model_index.json names one
    edit_json(model / "model_index.json", scheduler=[None, None])
    with pytest.raises(InvalidInput, match="names no sampler"):
        read_facts(model)


def test_what_is_not_followed_is_said(model: Path) -> None:
    def notes(settings: dict[str, Any], scheduler: str = "unipc") -> list[str]:
        write_json(model / FILE, settings)
        read_facts(model)
        return sampler_notes(model, scheduler, "Wan")

    assert notes(SHIPPED) == notes(SHIPPED, "euler") == notes({}) == []
    (line,) = notes(SHIPPED | {"prediction_type": "epsilon", "use_flow_sigmas": False})
    assert "prediction_type 'epsilon', use_flow_sigmas False" in line and "not followed" in line
    (line,) = notes({"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"})
    assert "DPMSolverMultistepScheduler" in line and "unipc samples it" in line
    assert EULER in notes({"_class_name": EULER, "shift": 5.0})[0]
    assert notes({"_class_name": EULER, "use_karras_sigmas": True}, "euler") == []
    assert "use_karras_sigmas True" in notes(SHIPPED | {"use_karras_sigmas": True})[0]
    assert "invert_sigmas True" in notes({"_class_name": EULER, "invert_sigmas": True}, "euler")[0]


def test_the_published_configuration_is_followed_as_it_is() -> None:
    shipped = json.loads((Path("configs/tiny_wan") / FILE).read_text())
    theirs = diffusers.UniPCMultistepScheduler.from_config(shipped)
    theirs.set_timesteps(6)
    assert torch.equal(sampled(make_wan_scheduler(shipped, sampling(), CPU)), sampled(theirs))
