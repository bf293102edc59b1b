"""Bytes of a transformer's weights with ``model.quantize``, from its sizes alone."""

from __future__ import annotations

from pathlib import Path

from engine.config import ModelConfig
from engine.cost.card import multiplies_float8
from engine.cost.shape import TransformerShape
from engine.models.single_files import is_gguf_file

_SCALE_BYTES = {"int8": 5, "fp8": 4}
"""Of a row: a scale in float32, and with int8 a zero point as well, as torchao keeps them."""
_FLOAT32 = 4
_GGUF_BYTES = 12.3
"""That diffusers takes for a number of IQ4_XS, and of IQ4_NL nearly; for other kinds 4 to 10."""


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


def dequantised_bytes(model: ModelConfig, plain_bytes: int) -> float:
    """Bytes that are taken for each number of a matrix while it is multiplied, since it is dequantised each time.

    On a card that multiplies float8 itself fp8 takes none: see :func:`rounded_bytes`.

    Args:
        plain_bytes: of a number in the arithmetic: 2 in bfloat16, 4 in float32.
    """
    file = model.single_files.get("transformer")
    if file is not None and is_gguf_file(file):
        return _GGUF_BYTES
    if model.quantize == "int8":
        return plain_bytes
    # torchao's fp8: cast to float32 and multiplied with the scales there, and cast to another dtype if it is another
    return 0 if model.quantize == "none" else 8 + (plain_bytes if plain_bytes < _FLOAT32 else 0)


def rounded_bytes(model: ModelConfig, plain_bytes: int) -> float:
    """Bytes that are taken for each number of the activations that enter a product with fp8, on a card that multiplies
    float8 itself: torchao rounds them in three copies in float32, and to float8.

    Args:
        plain_bytes: of a number in the arithmetic: 2 in bfloat16, 4 in float32.
    """
    able = model.quantize == "fp8" and plain_bytes < _FLOAT32
    return 3 * _FLOAT32 + 1 if able and multiplies_float8() else 0


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
