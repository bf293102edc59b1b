"""How much memory a published model takes on a rank: computed from its row of the catalog, not measured.

The first rank of a replica holds the most. Beside the transformer, which stays, it holds one thing after another, so
its peak is

    transformer + max(text encoders, image encoder, cache + step, VAE + decode)

with, for N ranks in a replica of which S share a sequence and C branches:

- transformer: 2 bytes a parameter (bfloat16), of one expert where there are two: the other waits in the host's
  memory, unless both take no more than half of the GPU's. Shared out (`parallel.shard_weights`) 1/N of all experts,
  and three blocks: the one that runs, the buffer in which it came, and the next one's.
- text encoders: 2 bytes a parameter; shared out (Wan) twice the largest layer, the table of tokens, for the parts wait
  in the host's memory. Image encoder: 4 bytes a parameter.
- cache: of DiCache, 5 tensors (two residuals, two probe residuals, the last probe) of [tokens / S, dim] for each
  guidance branch of the rank, 2 bytes a number.
- step: what is alive inside a block at most, counted in such tensors, and a probe for each branch of the rank.
- VAE and decode: 4 bytes a parameter (float32); the pictures between its layers, which N ranks share as strips of rows
  (Wan), or of one tile of 256 x 256 pixels, in 1.5 with all frames, and twice the finished video, on the first rank
  alone (HunyuanVideo). Encoding given images takes less.

Left out are what CUDA and NCCL take for themselves, buffers of attention over ranks, and what the allocator wastes:
leave a tenth free, and two gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.models.catalog import PublishedModel
from parallel.config import ParallelConfig
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.placement import find_placement

_BLOCK_BYTES, _VAE_BYTES = 2, 4  # a number in bfloat16 and in float32
_CACHED_TENSORS = 5
_SHARE_OF_TOKEN_TABLE = 0.185  # of UMT5-XXL's parameters; the only encoder that can be shared out


@dataclass(frozen=True)
class Memory:
    """Bytes on the first rank of a replica."""

    transformer: int
    encoders: int  # the text encoders, or the image encoder if that is larger
    cache: int
    step: int
    decode: int  # with the VAE's weights

    @property
    def peak(self) -> int:
        return self.transformer + max(self.encoders, self.cache + self.step, self.decode)


def choose_degrees(model: PublishedModel, ranks: int) -> Degrees:
    """The layout of ``parallel: auto`` for one video of the recipe's size on one machine."""
    facts = model.facts
    tokens = num_tokens(model)
    guided = num_branches(model) == 2
    section = ParallelConfig(cfg=None)
    return find_placement(section, Place(ranks), num_heads=facts.num_heads, num_tokens=tokens, guided=guided).degrees


def num_tokens(model: PublishedModel) -> int:
    """Of a video of the recipe's size."""
    frames, rows, columns = model.facts.token_grid(*model.video)
    return frames * rows * columns


def num_branches(model: PublishedModel) -> int:
    """Guidance branches, with guidance on."""
    return model.facts.num_branches(2.0)


def estimate(model: PublishedModel, degrees: Degrees, shard_weights: bool = False) -> Memory:
    """Memory for one video of the recipe's size with ``dicache``, by the formula above."""
    frames, height, width = model.video
    ranks = degrees.replica_size
    parameters = model.parameters
    transformer = float(parameters["transformer"])
    encoders = float(sum(count for folder, count in parameters.items() if folder.startswith("text_encoder")))
    if shard_weights and ranks > 1:
        experts = sum(parameters[folder] for folder in model.facts.transformers)
        transformer = experts / ranks + 3 * transformer / model.facts.num_layers
        if model.facts.family.shards_text_encoder:
            encoders *= 2 * _SHARE_OF_TOKEN_TABLE
    local_tokens = -(-num_tokens(model) // degrees.sequence)  # rounded up: shards differ by one token
    tensor = local_tokens * model.dim * _BLOCK_BYTES
    branches = num_branches(model) // degrees.cfg
    decode = model.decode_bytes_per_pixel * -(-height // ranks) * width
    if model.decode_bytes_per_tile:
        decode += model.decode_bytes_per_tile + 2 * _VAE_BYTES * 3 * frames * height * width
    return Memory(
        transformer=int(_BLOCK_BYTES * transformer),
        encoders=max(int(_BLOCK_BYTES * encoders), _VAE_BYTES * parameters.get("image_encoder", 0)),
        cache=_CACHED_TENSORS * branches * tensor,
        step=(model.live_tensors + branches) * tensor,
        decode=_VAE_BYTES * parameters["vae"] + decode,
    )
