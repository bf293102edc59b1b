"""What the engine needs of a model: its forward pass in pieces, between which it can shard, probe and skip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dicache.sums import StepSignal
from parallel.sharding import Shards


@dataclass(frozen=True)
class Activations:
    """One lane between two blocks, on one rank; a model adds what else its blocks take along.

    hidden_states: [1, local tokens, dim], the video's tokens. They alone are cached.
    """

    hidden_states: Tensor


class Adapter(Protocol):
    """One loaded transformer, whose own forward pass the pieces make up together; the module itself stays as it is."""

    transformer: Any
    num_blocks: int

    @property
    def dtype(self) -> torch.dtype:
        """Of the blocks' arithmetic."""
        ...

    def num_tokens(self, latents_shape: torch.Size) -> int:
        """Tokens of latents shaped [..., channels, frames, height, width]."""
        ...

    def conditions(self, encoded: Sequence[Mapping[str, Tensor]], latents: Tensor, shards: Shards) -> list[Any]:
        """What stays the same over a request's steps, for each lane's encoded prompt: projected text, positions.

        Args:
            encoded: what the text encoder made of each lane's prompt, by name.
            latents: the noise [samples, channels, frames, height, width], for its shape and device.
        """
        ...

    def embed(
        self, latents: Tensor, timestep: Tensor, conditions: Sequence[Any], shards: Shards
    ) -> Sequence[Activations]:
        """What enters block 0 on this rank, for each of a sample's lanes.

        Args:
            latents: one sample, [1, channels, frames, height, width].
            timestep: scalar, 1000 (noise) to 0.
            conditions: of the lanes, from :meth:`conditions`; what does not depend on them is made once.
        """
        ...

    def blocks(self, activations: Any, start: int, stop: int) -> Any:
        """Run blocks ``start`` to ``stop - 1``."""
        ...

    def signal(self, activations: Any, name: StepSignal) -> Tensor:
        """What TeaCache looks at before block 0, one of those that the model's family names in ``signals``:

        - ``timestep_embedding`` and ``timestep_modulation``, [1, 1, numbers], which all tokens have in common: the
          timestep as the head and as the blocks get it, before the blocks add tables of their own;
        - ``modulated_input``, [1, local tokens, dim]: the video's tokens, normed, shifted and scaled by the timestep
          as attention of block 0 gets them.
        """
        ...

    def head(self, activations: Any) -> Tensor:
        """Velocity of each token: [1, local tokens, patch volume x channels]."""
        ...

    def unpatchify(self, tokens: Tensor, latents_shape: torch.Size) -> Tensor:
        """Lay tokens [1, tokens, patch volume x channels] out as latents [1, channels, frames, height, width]."""
        ...

    def patchify(self, latents: Tensor) -> Tensor:
        """The inverse of :meth:`unpatchify`: the numbers of the latents that each token stands for, in the order of
        its velocity."""
        ...

    def finish(self, latents: Tensor, condition: Any) -> Tensor:
        """One sample's latents [1, channels, frames, height, width] with what its condition gives put in: a first
        frame that is never denoised. Without such, the latents as they are."""
        ...
