"""Compares the tensors in a model's files with those of its modules, by names and shapes, before weights are loaded."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from transformers.utils import logging

from engine.components.empty import empty_component
from engine.components.parts import parts_of
from engine.config import Config
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.models.fit import Shape, describe_misfit, misfit
from engine.models.folder import read_json
from engine.models.harmless import HARMLESS
from engine.models.quantised import is_empty
from engine.models.sums import check_sums
from engine.models.weights import fp8_of, read_tensors, weight_files
from parallel.diffusers_private import ignored_keys

_LAYERS = re.compile(r"num_(\w+_)?(layers|blocks)")
_MOST_LAYERS = 100  # some layers that a configuration counts are not in the files: decoders of T5
_PREFIXES = ("model", "transformer", "clip", "text_model", "vision_model", "language_model", "model.language_model")
_ADVICE = "download the model again, or correct model.path"


def check_files(config: Config, facts: ModelFacts) -> None:
    """Refuse files in a model's folder that do not hold this model, before any of their weights are loaded.

    Raises:
        InvalidInput: as of :func:`check_tensors`, or a file is not the one whose SHA-256 the folder carries
            (:func:`engine.models.sums.check_sums`).
    """
    check_tensors(config, facts)
    path, elsewhere = config.model.path, config.model.single_files
    check_sums(path, [file for part in facts.components if part not in elsewhere for file in weight_files(path, part)])


def check_tensors(config: Config, facts: ModelFacts) -> None:
    """Refuse a model if a tensor of a component is missing in its folder's files, or is unknown or has another shape.

    Reads headers alone; modules are on the meta device. Components that come from ``model.single_files`` are left out
    (:func:`engine.components.single_files.check_fit`).

    Raises:
        InvalidInput: one sentence that names the component and the first tensors.
    """
    parts = parts_of(facts.family)
    for component in facts.components:
        if component not in config.model.single_files:
            check_component(parts.kind(component), config.model.path, component)


def check_component(kind: Any, path: str, component: str) -> None:
    """Refuse a component whose files do not fit a ``kind``, a class of diffusers or transformers.

    Raises:
        InvalidInput: as of :func:`check_tensors`.
    """
    stored = read_tensors(path, component)
    beside = fp8_of(stored).beside
    held = {name: entry for name, entry in stored.items() if not is_empty(name, entry) and name not in beside}
    shapes = {name: tuple(entry["shape"]) for name, entry in held.items()}
    folder = Path(path) / component
    _check_numbers(folder, read_json(folder / "config.json"), len(held))
    try:
        if issubclass(kind, ModelMixin):
            wanted = empty_component(kind, path, component, torch.float32).state_dict()
            problem = misfit(shapes, {name: tensor.shape for name, tensor in wanted.items()}, ignored_keys(kind))
        else:
            problem = _misfit_of_transformers(kind, path, component, shapes)
    except Exception as error:  # a class may raise anything about sizes that it cannot have
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InvalidInput(f"{folder / 'config.json'} describes no {kind.__name__} ({reason}): {_ADVICE}.") from None
    if problem:
        raise InvalidInput(f"The weights in {folder} are not those of its config.json ({problem}): {_ADVICE}.")


def _misfit_of_transformers(kind: Any, path: str, component: str, shapes: Mapping[str, Shape]) -> str | None:
    """transformers renames tensors of older versions, strips prefixes and ties tables while it loads: it is asked
    itself, with tensors without data."""
    if twice := _twice(shapes):
        return f"{twice[0]} and {twice[1]} are the same tensor of this model"
    tensors = {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()}
    with _silent():
        _, found = kind.from_pretrained(
            None,
            config=kind.config_class.from_pretrained(path, subfolder=component, local_files_only=True),
            state_dict=tensors,
            device_map={"": "meta"},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    harmless = [re.compile(pattern) for pattern in HARMLESS.get(kind.__name__, ())]
    unknown = [name for name in found["unexpected_keys"] if not any(pattern.search(name) for pattern in harmless)]
    return describe_misfit(sorted(found["missing_keys"]), sorted(unknown), sorted(found["mismatched_keys"]))


def _check_numbers(folder: Path, settings: Mapping[str, Any], tensors: int) -> None:
    """Refuse a configuration with more layers than there are tensors, which would take minutes to build."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            _check_numbers(folder, value, tensors)
        elif _LAYERS.fullmatch(key) and isinstance(value, int) and value > max(tensors, _MOST_LAYERS):
            raise InvalidInput(
                f"{folder / 'config.json'} has {key} {value}, but the weights beside it are {tensors} tensors: "
                f"{_ADVICE}."
            )


def _twice(names: Collection[str]) -> tuple[str, str] | None:
    """Two names of which transformers makes the same, so that one tensor would replace the other."""
    for prefix in _PREFIXES:
        for name in names:
            if f"{prefix}.{name}" in names:
                return name, f"{prefix}.{name}"
    return None


@contextmanager
def _silent() -> Iterator[None]:
    """transformers draws no bar and prints no table of what does not fit."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
