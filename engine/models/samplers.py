"""What the ``scheduler`` folder of a model says, and how much of it is followed.

The models of all families predict the velocity of a flow, x(sigma) = (1 - sigma) x(0) + sigma noise, at 1000 noise
levels. So what is predicted and which noise levels there are follow from the model. The folder may name any sampler of
flows, and its own settings are followed where it is the sampler that the request asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import InvalidInput
from engine.models.folder import read_json

NOISE_LEVELS = 1000
"""``num_train_timesteps``: the transformers embed timesteps from 0 to 1000."""

CLASSES = {"unipc": "UniPCMultistepScheduler", "euler": "FlowMatchEulerDiscreteScheduler"}
"""diffusers' class of each value of ``sampling.scheduler``."""

_OF_FLOWS = (
    *CLASSES.values(),
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "SASolverScheduler",
    "FlowUniPCMultistepScheduler",  # Wan's own names
    "FlowDPMSolverMultistepScheduler",
)
"""Classes that can sample a flow, so that a folder that names one may be meant for a model that predicts one."""

_FOLLOWED: Mapping[str, Mapping[str, tuple[object, ...] | type]] = {
    "UniPCMultistepScheduler": {
        "solver_order": (1, 2, 3),
        "disable_corrector": list,
    },
    "FlowMatchEulerDiscreteScheduler": {
        "use_karras_sigmas": bool,
        "use_exponential_sigmas": bool,
        "use_beta_sigmas": bool,
    },
}
"""Settings of a sampler that are followed if the folder names it, with the values that they may have."""

_PLAIN: Mapping[str, object] = {
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "invert_sigmas": False,
    "final_sigmas_type": "zero",
    "stochastic_sampling": False,
    "thresholding": False,
    "solver_p": None,
    # with others diffusers' UniPC raises an error for a flow, or divides by the last sigma, which is 0
    "predict_x0": True,
    "solver_type": "bh2",
    "lower_order_final": True,
}
"""Settings that say what is predicted, at which noise levels, and how a step is taken, with the values that the engine
samples with; a folder with others is not followed in them."""


def check_sampler(folder: Path, index: Mapping[str, Any], family: str) -> None:
    """Refuse a model whose ``scheduler`` folder cannot be meant for a model that predicts a flow.

    Args:
        index: the content of ``model_index.json``.
        family: its name, for the error.

    Raises:
        InvalidInput: one sentence that names the file and what it says.
    """
    file = folder / "scheduler" / "scheduler_config.json"
    settings = read_json(file)
    entry = index.get("scheduler")
    listed = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    names = [(folder / "model_index.json", listed), (file, settings.get("_class_name"))]
    if all(name is None for _, name in names):
        raise InvalidInput(f"{file} names no sampler (_class_name): download the model again.")
    for where, name in names:
        if name is not None and name not in _OF_FLOWS:
            raise InvalidInput(
                f"{where} says that the sampler is a {name}, which is not for {family}, whose models predict a flow: "
                f"download the model again, or correct it to {' or '.join(CLASSES.values())}."
            )
    levels = settings.get("num_train_timesteps", NOISE_LEVELS)
    if isinstance(levels, bool) or levels != NOISE_LEVELS:
        raise InvalidInput(
            f"{file} has num_train_timesteps {levels!r}, but {family} models are trained on {NOISE_LEVELS} noise "
            "levels: download the model again, or correct it."
        )
    name = _class_of(settings, listed)
    for key, allowed in _FOLLOWED.get(name, {}).items():
        if key in settings and not _is_allowed(settings[key], allowed):
            raise InvalidInput(f"{file} has {key} {settings[key]!r}, which no {name} has: download the model again.")
    spacings = [key for key, value in followed(settings, CLASSES["euler"]).items() if value is True]
    if name == CLASSES["euler"] and len(spacings) > 1:
        raise InvalidInput(f"{file} has {' and '.join(spacings)}, of which there can be one: correct it.")


def followed(settings: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The settings of a ``scheduler_config.json`` that a sampler of the class ``kind`` is made with: none, if the file
    is of another class."""
    if _class_of(settings, kind) != kind:
        return {}
    return {key: settings[key] for key in _FOLLOWED[kind] if key in settings}


def sampler_notes(model_path: str | Path, scheduler: str, family: str) -> list[str]:
    """A line on what the folder says and is not followed in; none where it is followed.

    Args:
        scheduler: ``sampling.scheduler``.
        family: its name.
    """
    folder = Path(model_path)
    settings, index = read_json(folder / "scheduler" / "scheduler_config.json"), read_json(folder / "model_index.json")
    entry = index.get("scheduler")
    listed = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    kind = CLASSES[scheduler]
    taken = followed(settings, kind)
    others = [key for key, plain in _PLAIN.items() if settings.get(key, plain) != plain and key not in taken]
    said = [f"{key} {settings[key]!r}" for key in others]
    names = {name for name in (listed, settings.get("_class_name")) if name is not None}
    # UniPC is what Wan is published with: a person who has asked for euler beside it knows that
    if names - {kind, CLASSES["unipc"]}:
        said.insert(0, "/".join(sorted(names)))
    if not said:
        return []
    return [
        f"sampler: the model's scheduler folder has {', '.join(said)}, which is not followed: {family} predicts a "
        f"flow, and sampling.scheduler {scheduler} samples it"
    ]


def _class_of(settings: Mapping[str, Any], otherwise: str | None) -> str:
    return str(settings.get("_class_name") or otherwise)


def _is_allowed(value: object, allowed: tuple[object, ...] | type) -> bool:
    if allowed is list:
        return isinstance(value, list) and all(isinstance(item, int) for item in value)
    if isinstance(allowed, type):
        return isinstance(value, allowed)
    return any(value == item and type(value) is type(item) for item in allowed)
