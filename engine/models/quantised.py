"""Recognises quantised weights by their configuration and by the names and dtypes of tensors, without reading them.

Lockstep runs weights in float32, bfloat16 or float16, dequantises those in float8 (:mod:`engine.models.fp8`), and runs
GGUF files. Loaded as if they were plain, quantised weights would make a video of noise: their scales are tensors of
their own, which no model has under those names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from engine.errors import InvalidInput
from engine.models.fp8 import find_fp8

PLAIN_DTYPES = ("F64", "F32", "BF16", "F16")
"""As safetensors names them."""
_ADVICE = "use the model in bf16, fp16, fp32 or plain fp8, or a transformer as a GGUF file"

# how each tool names the tensors beside its quantised weights; more telling names come first
_TOOLS = (
    ("bitsandbytes", r"\.(nested_)?(absmax|quant_map)$|\.quant_state\.|\.SCB$|\.weight_format$"),
    ("GPTQ or AWQ", r"(^|\.)(qweight|qzeros|g_idx)$"),
    ("compressed-tensors", r"\.weight_(packed|shape|zero_point|g_idx|global_scale)$"),
    ("torchao", r":(qdata|scale|zero_point|tensor_data)$|_weight_(qdata|scale|zero_point)$"),
    ("quanto", r"\.weight\._(data|scale|shift|scale_shift)(\.|$)"),
    ("Nunchaku", r"\.(wscales|wtscale|wcscales|wzeros|smooth_factor(_orig)?|smooth(_orig)?)$"),
    ("ComfyUI", r"(^|\.)comfy_quant$"),
    ("ModelOpt", r"\._?(weight|input)_quantizer\."),
    ("fp8 with scales", r"\.(scale_weight|weight_scale(_inv|_\d)?|scale_input|(input|output)_scale|scale_inv)$"),
)
MARKER = r"(^|\.)scaled_fp8$"
"""ComfyUI's sign that a file may have scales; at most two numbers, which mean nothing where there are none."""
_COUNTERS = re.compile(r"(^|\.)(position_ids|num_batches_tracked)$")
"""Buffers of whole numbers that older versions of transformers saved; modules make them anew."""
_CONFIGURATIONS = ("quantization_config", "compression_config", "quantization")
_FILES = (
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    "quanto_qmap.json",
    "quantization_map.json",
)


def is_empty(name: str, entry: Mapping[str, Any]) -> bool:
    """Whether a tensor holds nothing that a model could want: no number at all, or a marker."""
    elements = prod(entry["shape"])
    return elements == 0 or (elements <= 2 and re.search(MARKER, name) is not None)


def quantising_tool(name: str) -> str | None:
    """The tool that puts tensors of this name beside its quantised weights; None for a plain weight's name."""
    return next((tool for tool, pattern in _TOOLS if re.search(pattern, name)), None)


def check_configuration(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a component that says of itself that it is quantised.

    Args:
        settings: the content of its ``config.json``.

    Raises:
        InvalidInput: one sentence that names the file and the method.
    """
    for method in _methods(settings):
        raise InvalidInput(f"{folder / 'config.json'} says that these weights are quantised ({method}): {_ADVICE}.")
    for name in _FILES:
        if (folder / name).is_file():
            raise InvalidInput(f"{folder / name} says that these weights are quantised: {_ADVICE}.")


def check_plain(tensors: Mapping[str, Any], where: Path | str) -> None:
    """Refuse tensors that are neither plain weights nor in float8 as :func:`engine.models.fp8.find_fp8` knows it.

    Args:
        tensors: ``dtype`` and ``shape`` by name, as in the header of a safetensors file.
        where: the file or folder that holds them, for the error.

    Raises:
        InvalidInput: one sentence that names the first tensors, and how many more there are.
    """
    whole = {name: entry for name, entry in tensors.items() if not is_empty(name, entry)}
    try:
        fp8 = find_fp8(whole)
    except ValueError as error:
        raise InvalidInput(f"{where} holds quantised weights (fp8 with scales: {error}): {_ADVICE}.") from None
    whole = {name: entry for name, entry in whole.items() if name not in fp8.weights | fp8.beside}
    odd = [name for name, entry in whole.items() if not _is_plain(name, entry)]
    beside = {name: tool for name in whole if (tool := quantising_tool(name))}
    if not odd and not beside:
        return
    first = [*dict.fromkeys([*odd[:2], *beside])][:3]
    more = len({*odd, *beside}) - len(first)
    named = ", ".join(f"{name} as {whole[name].get('dtype')}" for name in first)
    tool = f" ({_most_telling(beside.values())})" if beside else ""
    raise InvalidInput(
        f"{where} holds quantised weights{tool}: {named}{f' and {more} more' if more else ''}: {_ADVICE}."
    )


def _is_plain(name: str, entry: Mapping[str, Any]) -> bool:
    return entry.get("dtype") in PLAIN_DTYPES or (entry.get("dtype") == "I64" and _COUNTERS.search(name) is not None)


def _most_telling(tools: Iterable[str]) -> str:
    found = set(tools)
    return next(tool for tool, _ in _TOOLS if tool in found)


def _methods(settings: Mapping[str, Any]) -> Iterator[str]:
    """The methods that a configuration or one inside it names."""
    for key, value in settings.items():
        if key in _CONFIGURATIONS and value:
            named = value if isinstance(value, Mapping) else {"quant_method": value}
            yield str(next((named[k] for k in ("quant_method", "quant_backend", "quant_algo") if k in named), key))
        elif isinstance(value, Mapping):
            yield from _methods(value)
