"""Weights that torchao quantises; nothing else imports torchao."""

import importlib.util
import logging
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engine.cost.card import multiplies_float8
from engine.errors import MachineUnfit

_ROW_BYTES_ALIGNED = 16
"""Rows and columns of a matrix that torch's multiplication of float8 takes are multiples of this."""


@dataclass(frozen=True)
class Scheme:
    """How weights are held, and activations multiplied with them.

    kind: int8, or float8 (e4m3), each with one scale a row. dynamic: activations are rounded to float8 as well, with
    one scale a token, so that a token's result does not depend on which others its rank holds.
    """

    kind: Literal["int8", "fp8"]
    dynamic: bool = False


def scheme_for(quantize: str, device: torch.device, dtype: torch.dtype) -> Scheme | None:
    """The scheme for ``model.quantize``. fp8 is dynamic where the card multiplies float8 (sm89 and later) and the
    arithmetic is in bfloat16."""
    if quantize == "int8":
        return Scheme("int8")
    if quantize == "fp8":
        able = device.type == "cuda" and multiplies_float8(device.index or 0)
        return Scheme("fp8", able and dtype == torch.bfloat16)
    return None


def check_torchao() -> None:
    """Refuse to quantise where torchao is missing, or does not go with this torch.

    Raises:
        MachineUnfit: one sentence that says what to install.
    """
    if importlib.util.find_spec("torchao") is None:
        raise MachineUnfit(
            "model.quantize needs the package torchao, which is not installed: install lockstep-video[quantize], or "
            "use model.quantize=none."
        )
    try:
        quantised(torch.zeros(16, 16), Scheme("int8"))
        kept_in_fp8(torch.zeros(16, 16).to(torch.float8_e4m3fn), torch.ones(16, 1), Scheme("fp8"), torch.float32)
    except Exception as error:  # a torchao for another torch fails in many ways
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise MachineUnfit(
            f"model.quantize needs torchao, but version {version('torchao')} does not go with torch "
            f"{torch.__version__} ({reason}): install the versions that constraints.txt names, or use "
            "model.quantize=none."
        ) from None


def _import_quietly() -> None:
    """torchao warns of each of its extensions that this build of torch cannot load, with paths; none is needed here."""
    if "torchao" in sys.modules:
        return
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import torchao.quantization  # noqa: F401
    finally:
        logging.disable(before)


def quantised(weight: Tensor, scheme: Scheme) -> nn.Parameter:
    """A weight [outputs, inputs] of a linear layer, quantised on its device; it still says that it has its dtype."""
    _import_quietly()
    from torchao.quantization import quantize_

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    # torchao would by itself change torch's compiler settings for the whole process
    quantize_(layer, _config(scheme, weight), filter_fn=lambda module, name: module is layer)
    return layer.weight


def kept_in_fp8(weight: Tensor, scales: Tensor, scheme: Scheme, dtype: torch.dtype) -> nn.Parameter:
    """A weight that is published in float8, with its own numbers and scales.

    Args:
        weight: float8 [outputs, inputs].
        scales: float32 [outputs, 1].
        dtype: of the arithmetic.
    """
    _import_quietly()
    from torchao.float8.inference import Float8MMConfig
    from torchao.quantization import Float8Tensor, PerRow
    from torchao.quantization.quantize_.workflows import QuantizeTensorToFloat8Kwargs

    dynamic = scheme.dynamic and weight.dtype == torch.float8_e4m3fn and _is_aligned(weight)
    kept = Float8Tensor(
        weight.contiguous(),
        scales.to(weight.device).contiguous(),
        block_size=[1, weight.shape[1]],
        mm_config=Float8MMConfig(use_fast_accum=True) if dynamic else None,
        act_quant_kwargs=QuantizeTensorToFloat8Kwargs(torch.float8_e4m3fn, PerRow()) if dynamic else None,
        dtype=dtype,
    )
    return nn.Parameter(kept, requires_grad=False)


def _config(scheme: Scheme, weight: Tensor) -> Any:
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Float8WeightOnlyConfig,
        Int8WeightOnlyConfig,
        PerRow,
    )

    if scheme.kind == "int8":
        return Int8WeightOnlyConfig(set_inductor_config=False)
    if scheme.dynamic and _is_aligned(weight):
        return Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    return Float8WeightOnlyConfig(set_inductor_config=False)


def _is_aligned(weight: Tensor) -> bool:
    return all(size % _ROW_BYTES_ALIGNED == 0 for size in weight.shape)
