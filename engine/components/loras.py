"""LoRA adapters: read and converted by diffusers' loader of a model's family, scaled by peft, and added to the weights.

After that the transformer has plain layers with changed weights: attention over ranks and sharding need no support for
adapters.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

import diffusers.loaders
import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor, nn

from engine.components.empty import empty_component
from engine.components.files import loading
from engine.components.parts import parts_of
from engine.config import Config, LoraConfig
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.models.families import Family
from engine.models.loras import lora_file
from parallel.slices import add_part

_KEY = re.compile(r"transformer\.(?P<layer>.+)\.lora_(?P<half>[AB])\.(?P<kind>weight|bias)")
_ADVICE = "it was made for another model, so leave it out of model.loras"


def add_loras(transformer: Any, config: Config, facts: ModelFacts, subfolder: str) -> None:
    """Add the configured adapters to the weights of a transformer, one after the other.

    Args:
        transformer: loaded, whole or with this rank's part of its weights; it keeps its layers and dtypes.
        subfolder: of the transformer in the model's folder.

    Raises:
        RankFailure: an adapter cannot be read, or makes weights that are not finite.
    """
    for lora in config.model.loras:
        if lora.transformer == subfolder:
            with loading("LoRA", lora.path, "check the file, or leave it out of model.loras"):
                for name, change in _changes(lora, config, facts):
                    add_part(transformer.get_parameter(name), change)


def _changes(lora: LoraConfig, config: Config, facts: ModelFacts) -> Iterator[tuple[str, Tensor]]:
    """The changes of an adapter: name and change of one parameter after the other, whole, float32, on the CPU."""
    loader, file, name = _loader(facts.family), lora_file(lora), "lora"
    stand_in = empty_component(parts_of(facts.family).transformer, config.model.path, lora.transformer, torch.float32)
    # peft moves its tensors to the device of the weights and reads their shape alone: one number is enough
    hollow = {name: torch.zeros(()).expand(parameter.shape) for name, parameter in stand_in.named_parameters()}
    stand_in.load_state_dict(hollow, assign=True)
    weights, metadata = loader.lora_state_dict(
        str(file.parent), weight_name=file.name, use_safetensors=True, local_files_only=True, return_lora_metadata=True
    )
    loader.load_lora_into_transformer(weights, stand_in, adapter_name=name, metadata=metadata, low_cpu_mem_usage=True)
    stand_in.set_adapters([name], [lora.scale])
    for layer, module in stand_in.named_modules():
        if isinstance(module, LoraLayer):
            linear: Any = module  # or a convolution
            yield f"{layer}.weight", linear.get_delta_weight(name).detach()
            if module.lora_bias[name]:
                yield f"{layer}.bias", (module.lora_B[name].bias * module.scaling[name]).detach()


def check_loras(config: Config, facts: ModelFacts) -> None:
    """Refuse adapters that do not fit the model's transformers. Reads the headers of the files alone.

    Raises:
        InvalidInput: one sentence that names the file and a tensor in it.
    """
    kind = parts_of(facts.family).transformer
    shapes: dict[str, dict[str, torch.Size]] = {}
    for lora in config.model.loras:
        if lora.transformer not in shapes:
            empty: nn.Module = empty_component(kind, config.model.path, lora.transformer, torch.float32)
            shapes[lora.transformer] = {name: parameter.shape for name, parameter in empty.named_parameters()}
        _check(lora, _converted(lora, facts.family), shapes[lora.transformer])


def _converted(lora: LoraConfig, family: Family) -> dict[str, Tensor]:
    """The tensors of an adapter under diffusers' names, on the meta device."""
    file = lora_file(lora)
    tensors = {}
    with safe_open(file, framework="pt") as source:
        for name in source.keys():  # noqa: SIM118  it is no dictionary
            shape = source.get_slice(name).get_shape()
            # the conversion reads the values of scalars, which scale the tensors
            tensors[name] = source.get_tensor(name) if prod(shape) == 1 else torch.empty(shape, device="meta")
    if any("dora_scale" in name for name in tensors):
        raise InvalidInput(f"{file} is a DoRA, of which diffusers would drop the scales: leave it out of model.loras.")
    try:
        converted: dict[str, Tensor] = _loader(family).lora_state_dict(tensors)
    except Exception as error:  # the conversion of an unknown format raises anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InvalidInput(f"{file} is no LoRA that diffusers knows ({reason}): {_ADVICE}.") from None
    return converted


def _check(lora: LoraConfig, tensors: dict[str, Tensor], shapes: dict[str, torch.Size]) -> None:
    halves: dict[str, dict[str, Tensor]] = {}
    file = lora_file(lora)
    for name, tensor in tensors.items():
        key = _KEY.fullmatch(name)
        if key is None or f"{key['layer']}.weight" not in shapes:
            raise InvalidInput(
                f"{file} holds {name}, which fits no layer of this model's {lora.transformer}: {_ADVICE}."
            )
        if key["kind"] == "weight":
            halves.setdefault(key["layer"], {})[key["half"]] = tensor
        elif tensor.shape != shapes.get(f"{key['layer']}.bias"):
            raise InvalidInput(
                f"{file} holds {name} of the shape {_text(tensor.shape)}, which fits no bias: {_ADVICE}."
            )
    if not halves:
        raise InvalidInput(f"{file} holds nothing that would be added to {lora.transformer}: {_ADVICE}.")
    for layer, pair in halves.items():
        weight = shapes[f"{layer}.weight"]
        if pair.keys() != {"A", "B"}:
            raise InvalidInput(f"{file} holds only one half of what it adds to {layer}: download it again.")
        down, up = pair["A"].shape, pair["B"].shape
        if (down[1:], up[:1]) != (weight[1:], weight[:1]) or down[0] != up[1]:
            raise InvalidInput(
                f"{file} holds {_text(up)} and {_text(down)} for {layer}, which is {_text(weight)} here: {_ADVICE}."
            )


def describe_loras(config: Config) -> list[dict[str, Any]]:
    """For the run report: the adapters with the SHA-256 of their files."""
    described = []
    for lora in config.model.loras:
        with lora_file(lora).open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        described.append(lora.model_dump() | {"sha256": sha256})
    return described


def _loader(family: Family) -> Any:
    return getattr(diffusers.loaders, family.lora_loader)


def _text(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape))
