"""Whether weights of fewer bits go with the rest of a configuration; docs/quantised.md has the table."""

from __future__ import annotations

from collections.abc import Iterator

from engine.config import Config
from engine.errors import InvalidInput
from engine.models.facts import ModelFacts
from engine.models.fp8 import Fp8Names, find_fp8
from engine.models.quantised import is_empty
from engine.models.single_files import files_of, is_gguf_file, read_names
from engine.models.weights import fp8_of, read_tensors


def check_quantised(config: Config, facts: ModelFacts, replica_size: int) -> list[str]:
    """Refuse what does not go with quantised weights. Reads headers alone; needs no torch.

    Args:
        replica_size: ranks that work on one video.

    Returns:
        A line for each folder in float8 that is not kept as it is, or of which a part is not used.

    Raises:
        InvalidInput: one sentence that names the key and what to do instead.
    """
    model = config.model
    sharded = config.parallel.shard_weights and replica_size > 1
    if model.quantize != "none" and sharded:
        raise InvalidInput(
            f"model.quantize is {model.quantize}, but torch cannot share out torchao's weights: use "
            "parallel.shard_weights=false, or model.quantize=none."
        )
    for named, path in model.single_files.items():
        if is_gguf_file(path):
            _check_gguf(config, named, path)
    notes = []
    for component, where, found, in_folder in _in_fp8(config, facts):
        if model.quantize == "int8" and component in facts.transformers:
            raise InvalidInput(
                f"model.quantize is int8, but {where} is in fp8, and would be rounded twice: use model.quantize=fp8, "
                "which keeps it as it is, or none, which dequantises it."
            )
        if not in_folder:
            continue  # the check of single files has its own notes
        if found.scales and sharded:
            raise InvalidInput(
                f"parallel.shard_weights is true, but {where} is in fp8 with scales, which is not shared out: use "
                "shard_weights=false, or a folder in bf16."
            )
        if found.input_scales:
            notes.append(f"of {where} the {len(found.input_scales)} scales of inputs are not used")
        if component not in facts.transformers:
            notes.append(f"{where} is in fp8 and is dequantised")
        elif model.quantize == "none":
            notes.append(f"{where} is in fp8 and is dequantised; model.quantize=fp8 keeps it as it is")
    return notes


def check_packages(config: Config) -> None:
    """Refuse quantised weights where the package that they need is missing or does not fit; imports torch.

    Raises:
        MachineUnfit: one sentence that says what to install.
    """
    if any(is_gguf_file(path) for path in config.model.single_files.values()):
        from engine.components.gguf_files import check_gguf_package

        check_gguf_package()
    if config.model.quantize != "none":
        from engine.components.quantising.torchao_weights import check_torchao

        check_torchao()


def _check_gguf(config: Config, component: str, path: str) -> None:
    model = config.model
    if model.quantize != "none":
        raise InvalidInput(
            f"model.quantize is {model.quantize}, but {path} is quantised already: use model.quantize=none, or a file "
            "in bf16."
        )
    for lora in model.loras:
        if lora.transformer == component:
            raise InvalidInput(
                f"model.loras names {lora.path}, but the {component} is the GGUF file {path}, whose numbers no adapter "
                "can be added to: use a file in bf16 or fp8, with model.quantize if it has to be small."
            )


def _in_fp8(config: Config, facts: ModelFacts) -> Iterator[tuple[str, str, Fp8Names, bool]]:
    """Component, file or folder, what in it is in float8, and whether it is the model's folder."""
    for component in facts.components:
        path = config.model.single_files.get(component)  # type: ignore[call-overload]
        if path is None:
            found = fp8_of(read_tensors(config.model.path, component))
            where = f"{config.model.path}/{component}"
        elif all(file.suffix in (".safetensors", ".sft") for file in files_of(path)):
            held = read_names(path, component)
            found = find_fp8({name: entry for name, entry in held.items() if not is_empty(name, entry)})
            where = path
        else:
            continue
        if found.weights:
            yield component, where, found, path is None
