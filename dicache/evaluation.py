"""Evaluates sums on the tokens that this rank holds."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dicache.sums import Operand, Sum

# Elements of one chunk. On a CPU temporaries stay in its cache and in memory that is already mapped (whole tensors
# took several times as long); on a GPU they are bounded to 16 MiB each, and launches do not dominate.
_CHUNK_ELEMENTS = {"cpu": 1 << 15, "cuda": 1 << 21}


def evaluate(sums: Sequence[Sum], read: Callable[[Operand, slice], Tensor], like: Tensor) -> Tensor:
    """Evaluate sums over the tokens of ``like`` in float64, chunk by chunk and without a host sync.

    Args:
        read: gives the tokens of an operand, any float dtype, [1, tokens, dim]; fewer where it has fewer.
        like: a tensor [1, tokens, dim] that has the operands' tokens and device. No tokens give zeros.

    Returns:
        float64 [len(sums)] on the device of ``like``.
    """
    total = torch.zeros(len(sums), dtype=torch.float64, device=like.device)
    operands = dict.fromkeys(operand for term in sums for operand in term.operands)
    for tokens in token_chunks(like) if sums else ():
        chunk = {operand: read(operand, tokens).double() for operand in operands}
        total += torch.stack([term.of(chunk) for term in sums])
    return total


def token_chunks(tensor: Tensor) -> Iterator[slice]:
    """Slices over the tokens of [1, tokens, dim] that bound the size of temporaries."""
    _, num_tokens, dim = tensor.shape
    stride = max(1, _CHUNK_ELEMENTS[tensor.device.type] // dim)
    for start in range(0, num_tokens, stride):
        yield slice(start, start + stride)
