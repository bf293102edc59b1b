"""Recognises weights in float8 and their scales by names, dtypes and shapes, without reading them.

Layouts: plain ``float8_e4m3fn`` or ``float8_e5m2``; with one scale a layer or one a row, as ComfyUI writes them
(``comfy/utils.py``, ``convert_old_quants``): ``X.scale_weight`` beside ``X.weight`` and a marker ``scaled_fp8``, or
``X.weight_scale`` and ``X.comfy_quant``. A weight is its number in float8 times its scale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from engine.errors import InvalidInput

FP8_DTYPES = ("F8_E4M3", "F8_E5M2")
"""As safetensors names them."""
_SCALES = (".scale_weight", ".weight_scale")
_INPUT_SCALES = (".scale_input", ".input_scale")
_MARK = ".comfy_quant"
_MARKED = ("float8_e4m3fn", "float8_e5m2")
_SCALE_DTYPES = ("F64", "F32", "BF16", "F16")


@dataclass(frozen=True)
class Fp8Names:
    """What of a file is in float8, and what is beside it.

    weights: names of tensors in float8. scales: by the name of a weight the name of its scale; others have the scale 1.
    input_scales: names of scales for activations, which are not used. marks: names of what describes a layer.
    """

    weights: frozenset[str]
    scales: Mapping[str, str]
    input_scales: tuple[str, ...]
    marks: tuple[str, ...]

    @property
    def beside(self) -> frozenset[str]:
        """All tensors that are none of the model's."""
        return frozenset((*self.scales.values(), *self.input_scales, *self.marks))


def find_fp8(tensors: Mapping[str, Any]) -> Fp8Names:
    """What is in float8 among tensors that are named in a header: ``dtype`` and ``shape`` by name.

    Raises:
        ValueError: a scale belongs to nothing in float8, there are two of them for one weight, or it has a shape other
            than one number or one a row; a phrase that names it.
    """
    weights = frozenset(name for name, entry in tensors.items() if entry.get("dtype") in FP8_DTYPES)
    scales: dict[str, str] = {}
    beside: dict[str, list[str]] = {"input": [], "mark": []}
    for name, entry in tensors.items():
        suffix = next((end for end in (*_SCALES, *_INPUT_SCALES, _MARK) if name.endswith(end)), None)
        if suffix is None or name in weights:
            continue
        weight = f"{name.removesuffix(suffix)}.weight"
        if weight not in weights:
            raise ValueError(f"{name} belongs to {weight}, which is not there in float8")
        if suffix in _SCALES:
            if weight in scales:
                raise ValueError(f"{name} and {scales[weight]} both scale {weight}")
            _check_scale(name, entry, tensors[weight]["shape"])
            scales[weight] = name
        else:
            beside["mark" if suffix == _MARK else "input"].append(name)
    return Fp8Names(weights, scales, tuple(beside["input"]), tuple(beside["mark"]))


def _check_scale(name: str, entry: Mapping[str, Any], weight: Any) -> None:
    shape, rows = list(entry["shape"]), weight[0] if weight else 1
    if entry.get("dtype") not in _SCALE_DTYPES or (prod(shape) != 1 and shape not in ([rows], [rows, 1])):
        raise ValueError(f"{name} as {entry.get('dtype')} of the shape {shape} is neither one scale nor one a row")


def check_marks(file: Path, header: Mapping[str, Any]) -> None:
    """Refuse a safetensors file whose ``comfy_quant`` tensors describe something else than plain float8.

    Args:
        header: with the ``data_offsets`` of its tensors.

    Raises:
        InvalidInput: one sentence that names the file and the format.
    """
    marks = [name for name in header if name.endswith(_MARK)]
    if not marks:
        return
    with file.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        for name in marks:
            begin, end = header[name]["data_offsets"]
            stream.seek(start + begin)
            try:
                described = json.loads(stream.read(end - begin))
                unknown = set(described) - {"format", "full_precision_matrix_mult"}
                plain = described.get("format") in _MARKED and not unknown
            except (ValueError, AttributeError, TypeError):
                described, plain = "no JSON", False
            if not plain:
                raise InvalidInput(
                    f"{file} holds quantised weights ({name} says {described}): use a file in fp8, bf16, fp16 or fp32."
                )
