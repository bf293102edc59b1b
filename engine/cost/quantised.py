"""Bytes of a transformer's weights with ``model.quantize``, from its sizes alone."""

from __future__ import annotations

from pathlib import Path

from engine.config import ModelConfig
from engine.cost.shape import TransformerShape
from engine.models.single_files import is_gguf_file

_SCALE_BYTES = {"int8": 5, "fp8": 4}
"""Of a row: a scale in float32, and with int8 a zero point as well, as torchao keeps them."""


def weight_bytes(model: ModelConfig, shape: TransformerShape, parameters: int, plain_bytes: int) -> float:
    """Bytes that a parameter of the first transformer takes in the mean, as ``model`` says that it is held.

    Args:
        parameters: of the whole transformer.
        plain_bytes: of a number that is not quantised: 2 in bfloat16, 4 in float32.
    """
    file = model.single_files.get("transformer")
    if file is not None and is_gguf_file(file) and Path(file).is_file():
        return Path(file).stat().st_size / parameters  # what is not in the blocks may be larger once it is loaded
    return bytes_per_parameter(shape, parameters, model.quantize, plain_bytes)


def bytes_per_parameter(shape: TransformerShape, parameters: int, quantize: str, plain_bytes: int) -> float:
    """The mean over all parameters of a transformer.

    Args:
        parameters: of the whole transformer.
        quantize: "none", "int8" or "fp8".
        plain_bytes: of a number that is not quantised: 2 in bfloat16, 4 in float32.
    """
    if quantize == "none":
        return plain_bytes
    numbers, rows = _in_blocks(shape)
    return (numbers + _SCALE_BYTES[quantize] * rows + plain_bytes * (parameters - numbers)) / parameters


def _in_blocks(shape: TransformerShape) -> tuple[int, int]:
    """Numbers and rows of the matrices that :func:`engine.components.quantising.layers.quantised_names` chooses."""
    dim, ffn = shape.dim, shape.ffn_dim
    attention, feed_forward = [(dim, dim)] * 4, [(ffn, dim), (dim, ffn)]
    if shape.kind == "wan":
        block = [*attention, *attention, *feed_forward]
        block += [(dim, dim)] * 2 if shape.image_dim else []  # keys and values of CLIP's image
    else:
        block = 2 * (attention + feed_forward)  # of the video, and of the text
    single = [*attention[:3], (ffn, dim), (dim, dim + ffn)]
    matrices = block * shape.blocks + single * shape.single_blocks
    return sum(rows * columns for rows, columns in matrices), sum(rows for rows, _ in matrices)
