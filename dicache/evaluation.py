"""Evaluates sums on the tokens that this rank holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dicache.arithmetic import number, token_chunks, widened
from dicache.sums import Chunk, Operand, Sum


@dataclass(frozen=True)
class Source:
    """Where an operand's numbers are: ``tensor``, or ``tensor - minus`` rounded to their dtype; [1, tokens, dim]."""

    tensor: Tensor
    minus: Tensor | None = None

    def at(self, tokens: slice) -> Tensor:
        """The operand's numbers of those tokens."""
        part = self.tensor[:, tokens]
        return part if self.minus is None else part - self.minus[:, tokens]


def evaluate(sums: Sequence[Sum], read: Callable[[Operand], Source], device: torch.device) -> Tensor:
    """Evaluate sums without a host sync, chunk by chunk, as precisely as :mod:`dicache.arithmetic` says.

    Args:
        read: gives an operand, of any float dtype; all operands of one sum have one shape. No tokens give zeros.

    Returns:
        float64 [len(sums)] on ``device``, which is that of the operands.
    """
    sources = {operand: read(operand) for term in sums for operand in term.operands}
    by_shape: dict[torch.Size, list[int]] = {}  # so that a narrow operand is not cut by the width of a wide one
    for index, term in enumerate(sums):
        by_shape.setdefault(sources[term.operands[0]].tensor.shape, []).append(index)
    totals = [torch.zeros((), dtype=torch.float64, device=device)] * len(sums)
    for indices in by_shape.values():
        rows = _of_each_token([sums[index] for index in indices], sources, number(-1.0, device))
        for index, of_chunks in zip(indices, rows, strict=True):
            if of_chunks:
                totals[index] = torch.cat(of_chunks, dim=1).sum(dtype=torch.float64)
    return torch.stack(totals) if totals else torch.zeros(0, dtype=torch.float64, device=device)


def _of_each_token(terms: Sequence[Sum], sources: Mapping[Operand, Source], minus_one: Tensor) -> list[list[Tensor]]:
    """What every token brings to each of the sums, chunk by chunk, [1, tokens of the chunk]."""
    operands = dict.fromkeys(operand for term in terms for operand in term.operands)

    def of_chunk(tokens: slice) -> list[Tensor]:  # a function, so that its tensors are freed before the next chunk's
        chunk = Chunk({operand: widened(sources[operand].at(tokens)) for operand in operands}, minus_one)
        return [term.of(chunk) for term in terms]

    of_chunks = [of_chunk(tokens) for tokens in token_chunks(sources[terms[0].operands[0]].tensor)]
    return [list(rows) for rows in zip(*of_chunks, strict=True)] or [[] for _ in terms]
