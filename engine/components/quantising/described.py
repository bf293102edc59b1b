"""What a loaded transformer's weights are held in, for the report and the count of bytes."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from engine.components.stored import shape_of


def describe_quantised(transformers: Iterable[nn.Module]) -> dict[str, int]:
    """How many matrices are in each kind of fewer bits: "int8", "float8_e4m3fn", "float8_e4m3fn with activations in
    float8", "Q4_K" and so on; none where all are plain."""
    kinds = (_kind(parameter) for transformer in transformers for parameter in transformer.parameters())
    return dict(sorted(Counter(kind for kind in kinds if kind is not None).items()))


def count_numbers(transformers: Iterable[nn.Module]) -> int:
    """Parameters of the model, which GGUF packs several in a byte."""
    total = 0
    for transformer in transformers:
        for parameter in transformer.parameters():
            numbers = 1
            for size in shape_of(parameter):
                numbers *= size
            total += numbers
    return total


def _kind(parameter: Tensor) -> str | None:
    held: Any = parameter
    if hasattr(held, "quant_type"):
        return str(held.quant_type.name)
    if not hasattr(held, "qdata"):
        return None
    kind = str(held.qdata.dtype).removeprefix("torch.")
    return kind if held.act_quant_kwargs is None else f"{kind} with activations in float8"
