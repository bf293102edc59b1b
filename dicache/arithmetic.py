"""Sums and combinations of activations, each operation as wide as its result needs and no wider.

float32 is added up in float64. What is narrower (bfloat16, float16) is subtracted in float32, where a difference of two
such numbers is all but exact; a token's numbers are added up in float32, and tokens in float64. So a token brings the
same bits to a sum wherever the sequence is cut. Tensors of two dtypes meet inside one kernel, by torch's promotion with
a tensor of one element, so that no widened copy of an operand is written.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Elements of one chunk. On a CPU temporaries stay in its cache and in memory that is already mapped (whole tensors
# took several times as long); on a GPU those of bfloat16 tensors, 8 MiB each, stay in its L2 cache.
CHUNK_ELEMENTS = {"cpu": 1 << 15}
_CHUNK_ELEMENTS_ON_A_GPU = 1 << 21


def token_chunks(tensor: Tensor) -> Iterator[slice]:
    """Slices over the tokens of [1, tokens, dim] that bound the size of temporaries."""
    _, num_tokens, dim = tensor.shape
    stride = max(1, CHUNK_ELEMENTS.get(tensor.device.type, _CHUNK_ELEMENTS_ON_A_GPU) // dim)
    for start in range(0, num_tokens, stride):
        yield slice(start, start + stride)


def number(value: float, device: torch.device) -> Tensor:
    """One float32 number, [1]. It widens what it is multiplied with; a scalar would not."""
    return torch.full((1,), value, dtype=torch.float32, device=device)


def widened(tensor: Tensor) -> Tensor:
    """float32 as float64; narrower tensors as they are, since the functions below widen them on the way."""
    return tensor.double() if tensor.dtype == torch.float32 else tensor


def difference(a: Tensor, b: Tensor, minus_one: Tensor) -> Tensor:
    """a - b of tensors of one shape and dtype, float64 if they are and else float32; ``minus_one`` as of
    :func:`number`."""
    return a - b if a.dtype == torch.float64 else torch.addcmul(a, minus_one, b)


def absolute_sums(tensor: Tensor) -> Tensor:
    """Σ|a| of each token: [1, tokens, dim] → [1, tokens], float64 if it is and else float32."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return torch.linalg.vector_norm(tensor, ord=1, dim=-1, dtype=wide)


def product_sums(a: Tensor, b: Tensor) -> Tensor:
    """Σ a b of each token, of tensors of one dtype: [1, tokens, dim] → [1, tokens], float64 if they are and else
    float32."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return (a.to(wide) * b).sum(-1)


def combine(base: Tensor | None, terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """base + Σ wᵢ tᵢ in their dtype, added up in float32 at least and rounded once.

    Args:
        base: [1, tokens, dim]; None adds to nothing.
        terms: at least one, each of the shape and dtype of ``base``.
    """
    like = terms[0] if base is None else base
    result = torch.empty_like(like)
    first = number(weights[0], like.device)
    for tokens in token_chunks(like):
        _combine_chunk(
            None if base is None else base[:, tokens], [t[:, tokens] for t in terms], weights, first, result[:, tokens]
        )
    return result


def _combine_chunk(
    base: Tensor | None, terms: Sequence[Tensor], weights: Sequence[float], first: Tensor, out: Tensor
) -> None:
    """A function of its own, so that its temporary is freed before the next chunk's is made."""
    if base is None:
        total = terms[0] * first
    elif base.dtype == torch.float32:
        total = torch.add(base, terms[0], alpha=weights[0], out=out)
    else:
        total = torch.addcmul(base, first, terms[0])
    for term, weight in zip(terms[1:-1], weights[1:-1], strict=True):
        total.add_(term, alpha=weight)
    if terms[1:]:
        torch.add(total, terms[-1], alpha=weights[-1], out=out)
    elif total is not out:
        out.copy_(total)
