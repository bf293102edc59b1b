"""The interface of a model: its forward pass in pieces, between which the engine shards, probes and skips.

dim is the transformer's width, and ``local tokens`` are the tokens of the video that this rank holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dicache.sums import StepSignal
from parallel.sharding import Shards


@dataclass(frozen=True)
class Activations:
    """One lane between two blocks, on one rank; each model adds the other inputs of its blocks.

    hidden_states: [1, local tokens, dim] in the blocks' dtype, the video's tokens. They alone are cached.
    """

    hidden_states: Tensor


class Adapter(Protocol):
    """One loaded transformer. The pieces together are its forward pass; the module itself is not changed."""

    transformer: Any
    num_blocks: int

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the blocks' arithmetic, float32 or bfloat16."""
        ...

    def num_tokens(self, latents_shape: torch.Size) -> int:
        """Tokens of latents with the shape [..., channels, frames, height, width]."""
        ...

    def conditions(self, encoded: Sequence[Mapping[str, Tensor]], latents: Tensor, shards: Shards) -> list[Any]:
        """What is the same at all steps of a request, for each lane: projected text and rotary embeddings, for example.

        Args:
            encoded: the named tensors of each lane's prompt and images; each adapter lists its own.
            latents: the noise [samples, channels, frames, height, width], for its shape and device.
            shards: which tokens of the video each rank holds.

        Returns:
            The conditions of each lane, in the order of ``encoded``.
        """
        ...

    def embed(
        self, latents: Tensor, timestep: Tensor, conditions: Sequence[Any], shards: Shards
    ) -> Sequence[Activations]:
        """The input of block 0 on this rank, for each lane of a sample.

        Args:
            latents: one sample, float32 [1, channels, frames, height, width], whole on every rank.
            timestep: scalar, from 1000 (noise) to 0.
            conditions: of the lanes, from :meth:`conditions`; what does not depend on them is computed once.
            shards: which tokens of the video each rank holds.

        Returns:
            Activations of each lane, with hidden_states [1, local tokens, dim] in the blocks' dtype.
        """
        ...

    def blocks(self, activations: Any, start: int, stop: int) -> Any:
        """Run blocks ``start`` to ``stop - 1``; collective over the ranks that share the sequence.

        Returns:
            Activations of the same kind, with hidden_states [1, local tokens, dim] after these blocks.
        """
        ...

    def signal(self, activations: Any, name: StepSignal) -> Tensor:
        """A tensor that TeaCache compares between steps (Liu et al. 2024, arXiv 2411.19108), taken before block 0.

        Args:
            activations: from :meth:`embed`.
            name: one of those that the model's family lists in ``signals``:

                - ``timestep_embedding`` and ``timestep_modulation``, [1, 1, numbers], the same for all tokens: the
                  timestep as the head and as the blocks take it, before the blocks add tables of their own;
                - ``modulated_input``, [1, local tokens, dim]: the video's tokens, normed, shifted and scaled by the
                  timestep as attention of block 0 takes them.
        """
        ...

    def head(self, activations: Any) -> Tensor:
        """The velocity of each token, from the output of the last block.

        Returns:
            [1, local tokens, patch volume x channels] in the blocks' dtype.
        """
        ...

    def unpatchify(self, tokens: Tensor, latents_shape: torch.Size) -> Tensor:
        """Tokens [1, tokens, patch volume x channels] → latents [1, channels, frames, height, width]."""
        ...

    def patchify(self, latents: Tensor) -> Tensor:
        """Latents [1, channels, frames, height, width] → tokens [1, tokens, patch volume x channels]: the inverse of
        :meth:`unpatchify`, with the numbers of a token in the order of its velocity."""
        ...

    def finish(self, latents: Tensor, condition: Any) -> Tensor:
        """One sample's latents [1, channels, frames, height, width], with the first frame put in where it is given
        and never denoised. Models without such a frame return the latents unchanged."""
        ...
