"""Estimates the memory that a model takes on a rank, from its row of the catalog, for a video of any size.

The first rank of a replica holds the most. The transformer stays, and the other parts follow one another, so the peak
is

    transformer + max(text encoders, image encoder, cache + step, VAE + decode)

with, for N ranks in a replica of which S share a sequence and C branches:

- transformer: 2 bytes a parameter (bfloat16), of one expert where there are two: the other is in the host's
  memory, unless both take no more than half of the GPU's. Sharded (`parallel.shard_weights`): 1/N of all experts, and
  three blocks: the one that runs, the buffer in which it was gathered, and the buffer of the next one.
- text encoders: 2 bytes a parameter; sharded (Wan): twice the largest layer, the token embedding, since the parts are
  in the host's memory. Image encoder: 4 bytes a parameter.
- cache: of DiCache, 5 tensors (two residuals, two probe residuals, the last probe) of [tokens / S, dim] for each
  guidance branch of the rank, 2 bytes a number.
- step: the most that is alive inside a block, counted in such tensors, and a probe for each branch of the rank.
- VAE and decode: 4 bytes a parameter (float32), and the activations of its layers. With Wan N ranks share them as
  strips of rows. With HunyuanVideo they are those of one tile of 256 x 256 pixels (in 1.5 with all frames) and twice
  the finished video, on the first rank alone. Encoding given images takes less.

Left out are the memory of CUDA and NCCL, buffers of attention over ranks, and fragmentation: leave a tenth and two
gigabytes free.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.models.catalog import PublishedModel
from parallel.config import ParallelConfig
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.placement import find_placement

VideoSize = tuple[int, int, int]
"""Frames, height and width in pixels."""
BLOCK_BYTES, _VAE_BYTES = 2, 4  # a number in bfloat16 and in float32
CACHED_TENSORS = 5  # of DiCache
_LEFT_FREE_SHARE, _LEFT_FREE_BYTES = 0.1, 2e9
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
        """The most that is held at once, by the formula above."""
        return self.transformer + max(self.encoders, self.cache + self.step, self.decode)


def fits(needed_bytes: float, memory_bytes: float) -> bool:
    """Whether a card of that much memory holds it, with what the formula leaves out."""
    return needed_bytes <= (1 - _LEFT_FREE_SHARE) * memory_bytes - _LEFT_FREE_BYTES


def choose_degrees(model: PublishedModel, ranks: int) -> Degrees:
    """The layout that ``parallel: auto`` chooses for one video of the recipe's size on one machine."""
    facts = model.facts
    tokens = num_tokens(model)
    guided = num_branches(model) == 2
    section = ParallelConfig(cfg=None)
    return find_placement(section, Place(ranks), num_heads=facts.num_heads, num_tokens=tokens, guided=guided).degrees


def num_tokens(model: PublishedModel, video: VideoSize | None = None) -> int:
    """Tokens of a video of that size, the recipe's where none is given."""
    frames, rows, columns = model.facts.token_grid(*(video or model.video))
    return frames * rows * columns


def num_branches(model: PublishedModel) -> int:
    """Guidance branches, with guidance on."""
    return model.facts.num_branches(2.0)


def estimate(
    model: PublishedModel,
    degrees: Degrees,
    shard_weights: bool = False,
    *,
    video: VideoSize | None = None,
    branches: int | None = None,
    cached_tensors: int = CACHED_TENSORS,
    block_bytes: int = BLOCK_BYTES,
) -> Memory:
    """Memory for one video, by the formula above.

    Args:
        video: frames, height and width in pixels; the recipe's where left out.
        branches: guidance branches that a step computes; with guidance on where left out.
        cached_tensors: of [tokens, dim] for each branch; those of ``dicache`` where left out, 0 without a cache.
        block_bytes: of a number in the transformer and the text encoders: 2 in bfloat16, 4 in float32.
    """
    frames, height, width = video or model.video
    ranks = degrees.replica_size
    parameters = model.parameters
    transformer = float(parameters["transformer"])
    encoders = float(sum(count for folder, count in parameters.items() if folder.startswith("text_encoder")))
    if shard_weights and ranks > 1:
        experts = sum(parameters[folder] for folder in model.facts.transformers)
        transformer = experts / ranks + 3 * transformer / model.facts.num_layers
        if model.facts.family.shards_text_encoder:
            encoders *= 2 * _SHARE_OF_TOKEN_TABLE
    local_tokens = -(-num_tokens(model, video) // degrees.sequence)  # rounded up: shards differ by one token
    tensor = local_tokens * model.dim * block_bytes
    lanes = max(1, (num_branches(model) if branches is None else branches) // degrees.cfg)
    decode = model.decode_bytes_per_pixel * -(-height // ranks) * width
    if model.decode_bytes_per_tile:
        decode += model.decode_bytes_per_tile + 2 * _VAE_BYTES * 3 * frames * height * width
    return Memory(
        transformer=int(block_bytes * transformer),
        encoders=max(int(block_bytes * encoders), _VAE_BYTES * parameters.get("image_encoder", 0)),
        cache=cached_tensors * lanes * tensor,
        step=(model.live_tensors + lanes) * tensor,
        decode=_VAE_BYTES * parameters["vae"] + decode,
    )
