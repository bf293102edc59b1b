"""Attention kernels behind one call, and the check that each gives the right numbers on the card at hand."""

from __future__ import annotations

import torch
from torch import Tensor

from parallel.kernels import KernelName
from parallel.ring import Kernel
from parallel.torch_private import cpu_flash_attention

LOG_SUM_EXP_TOLERANCE = 1e-3
"""Of a log-sum-exp, which kernels compute in float32 from the scores of rounded inputs. An error of e changes the
weight of a chunk of keys by a share of e."""
_OUTPUT_TOLERANCE = 0.05
"""Of the largest output: kernels round probabilities to bfloat16, and SageAttention rounds scores to 8 bits."""
_LENGTHS = ((160, 160), (97, 61))  # queries and keys; the second fill no tile of any kernel


def kernel_over_ranks(name: KernelName, device: torch.device, dtype: torch.dtype) -> Kernel:
    """The kernel in the form that attention over ranks calls, from xDiT's registry.

    "sdpa" means the torch kernel that also returns the log-sum-exp, which ``scaled_dot_product_attention`` keeps back:
    FlashAttention-2 as torch has it, the memory-efficient one in float32 and on cards before Ampere.
    """
    if device.type == "cpu":
        return cpu_flash_attention()
    from parallel import xdit

    kinds = xdit.AttentionBackendType
    kind = {
        "cudnn": kinds.CUDNN,
        "flash": kinds.FLASH,
        "flash3": kinds.FLASH_3,
        "sage": kinds.SAGE,
        "efficient": kinds.SDPA_EFFICIENT,
        "sdpa": kinds.SDPA_FLASH if _has_flash(device, dtype) else kinds.SDPA_EFFICIENT,
    }[name]
    function = xdit.ATTENTION_FUNCTION_REGISTRY[kind]

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor | None]:
        if name == "cudnn":  # which reads other strides wrongly
            query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        out, log_sum_exp = function(query, key, value, dropout_p=0.0, is_causal=False)
        # the memory-efficient kernel rounds the length up to a multiple of 32
        return out, log_sum_exp.narrow(-1, 0, query.shape[2])

    return kernel


def _has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    if dtype == torch.float32:
        return False
    # without a card, as in a trace of shapes, the newer one is meant
    return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)


def complaint_about_results(
    kernel: Kernel, head_dim: int, device: torch.device, dtype: torch.dtype, in_a_ring: bool
) -> str | None:
    """What a kernel gets wrong beside attention in float32, as a sentence fragment that follows "but"; None if nothing.

    Args:
        head_dim: of the model.
        in_a_ring: the log-sum-exp is needed. A ring weighs chunks of keys by it: a kernel that returned none, or zeros,
            would give wrong videos without an error.
    """
    generator = torch.Generator().manual_seed(0)
    for queries, keys in _LENGTHS:
        sizes = queries, keys, keys
        inputs = [torch.randn(1, 2, n, head_dim, generator=generator).to(device, dtype) for n in sizes]
        try:
            out, log_sum_exp = kernel(*inputs)
            out = out.float()
        except Exception as error:  # of a library that was built for another card or torch: anything
            return f"it fails on this machine ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        scores = inputs[0].float() @ inputs[1].float().transpose(2, 3) / head_dim**0.5
        expected = scores.softmax(dim=-1) @ inputs[2].float()
        share = ((out - expected).abs().max() / expected.abs().max()).item()
        if not share <= _OUTPUT_TOLERANCE:  # nan too
            return f"its results are wrong on this machine, by {share:.1e} of the largest"
        if not in_a_ring:
            continue
        if log_sum_exp is None:
            return "it gives no log-sum-exp, which a ring needs"
        if log_sum_exp.shape != scores.shape[:3]:
            return f"its log-sum-exp has the shape {list(log_sum_exp.shape)} where {list(scores.shape[:3])} is needed"
        off = (log_sum_exp.float() - scores.logsumexp(dim=-1)).abs().max().item()
        if not off <= LOG_SUM_EXP_TOLERANCE:
            return f"its log-sum-exp is wrong by {off:.1e} on this machine, and a ring needs it"
    return None
