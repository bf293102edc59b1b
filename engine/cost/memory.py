"""Estimates the memory that a model takes on a rank, from its row of the catalog, for a video of any size.

The first rank of a replica holds the most. The transformer stays, and the other parts follow one another, so the peak
is

    transformer + max(text encoders, image encoder, cache + step, VAE + decode)

with, for N ranks in a replica of which S share a sequence and C branches:

- transformer: 2 bytes a parameter (bfloat16), of one expert where there are two: the other is in the host's memory
  (`runtime.offload: experts`), unless both fit (`none`). With `blocks` what is outside the blocks, and two blocks: the
  one that runs and the next one. Sharded (`parallel.shard_weights`): 1/N of all experts, and three blocks: the one that
  runs, the buffer in which it was gathered, and the buffer of the next one.
- text encoders: 2 bytes a parameter; sharded (Wan): twice the largest layer, the token embedding, since the parts are
  in the host's memory. Image encoder: 4 bytes a parameter.
- cache: of DiCache, 5 tensors (two residuals, two probe residuals, the last probe) of [tokens / S, dim] for each
  guidance branch of the rank, 2 bytes a number.
- step: the most that is alive inside a block, counted in such tensors, and a probe for each branch of the rank. With
  ``model.quantize`` and GGUF files three tensors less, and what dequantising the largest matrix takes, if that is more.
  With fp8 on cards that multiply it five tensors less, and 13 bytes a number of the widest activations, which torchao
  rounds by way of three copies in float32.
- VAE and decode: 4 bytes a parameter (float32; HunyuanVideo 2, float16), and the activations of its layers. With Wan N
  ranks share them as strips of rows. With HunyuanVideo, and with Wan where ``model.vae_tiling`` or a small card asks
  for it, they are those of one tile of 256 x 256 pixels (but for 1.0 with all frames), and the first rank holds tiles
  that wait to be joined (:mod:`engine.cost.tile_memory`). With HunyuanVideo and ``model.vae_tiling: false`` a tile has
  whole frames, or the mask with which its latents attend is larger. Encoding given images takes less.

Encoders and VAE stay on the card between requests where it has room for them beside all else.

On a machine with GPUs what comes and goes has a pinned copy in the host's memory: of transformers that wait and of the
VAE each rank its own, of encoders the first rank of each replica. Where these do not fit into nine tenths of it, the
ranks of the machine share one copy of all but the VAE: of Wan 2.2 A14B 8 ranks keep 73 GB then, and 473 GB before.

Left out are the memory of CUDA and NCCL, buffers of attention over ranks, and fragmentation: leave a tenth and two
gigabytes free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from engine.cost.blocks import all_blocks, largest_block, largest_matrix, widest_input
from engine.cost.shape import shape_of_model
from engine.cost.tile_memory import CHUNK_LATENTS, TILE, TiledVideo
from engine.models.catalog import PublishedModel
from parallel.config import ParallelConfig
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.placement import find_placement

VideoSize = tuple[int, int, int]
"""Frames, height and width in pixels."""
Offload = Literal["none", "experts", "blocks"]
"""What of the transformers is in the host's memory while it does not run."""
BLOCK_BYTES, _VAE_BYTES = 2, 4  # a number in bfloat16 and in float32
CACHED_TENSORS = 5  # of DiCache
_MASK_BYTES = 4  # a number in the VAE's mask, as it is made
_LEFT_FREE_SHARE, _LEFT_FREE_BYTES = 0.1, 2e9
_SHARE_OF_TOKEN_TABLE = 0.185  # of UMT5-XXL's parameters; the only encoder that can be shared out
_FREED_BEFORE_PRODUCT = 3  # tensors; not alive any more, or not yet, while the largest matrix is dequantised
_FREED_BEFORE_ROUNDING = 5  # the same while the widest activations are rounded to float8
_STREAMED_BLOCKS, _GATHERED_BLOCKS = 2, 3


@dataclass(frozen=True)
class Memory:
    """Bytes on the first rank of a replica."""

    transformer: int
    encoders: int  # the text encoders, or the image encoder if that is larger
    cache: int
    step: int
    decode: int  # with the VAE's weights
    vae: int = 0  # its weights alone
    all_encoders: int = 0  # those of texts and of images
    waiting: int = 0  # of the transformers, in the host's memory

    @property
    def peak(self) -> int:
        """The most that is held at once, by the formula above."""
        return self.transformer + max(self.encoders, self.cache + self.step, self.decode)

    @property
    def peak_with_all(self) -> int:
        """The same where encoders and VAE stay on the card."""
        return self.transformer + self.all_encoders + max(self.vae + self.cache + self.step, self.decode)

    def host(self, ranks: int, first_ranks: int, shared: bool = False) -> int:
        """Bytes of host copies on a machine with GPUs: each rank has its own of what waits and of the VAE, and the
        first rank of a replica those of the encoders.

        Args:
            ranks: on the machine. first_ranks: of replicas, among them.
            shared: there is one copy of what waits and of the encoders for all of them.
        """
        if shared:
            return self.waiting + ranks * self.vae + min(first_ranks, 1) * self.all_encoders
        return ranks * (self.waiting + self.vae) + first_ranks * self.all_encoders


def room(memory_bytes: float) -> float:
    """Of a card's memory what may be planned with: what the formula leaves out is left free."""
    return (1 - _LEFT_FREE_SHARE) * memory_bytes - _LEFT_FREE_BYTES


def fits(needed_bytes: float, memory_bytes: float) -> bool:
    """Whether a card of that much memory holds it, with what the formula leaves out."""
    return needed_bytes <= room(memory_bytes)


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
    offload: Offload = "experts",
    video: VideoSize | None = None,
    branches: int | None = None,
    cached_tensors: int = CACHED_TENSORS,
    block_bytes: int = BLOCK_BYTES,
    weight_bytes: float | None = None,
    encoder_bytes: int | None = None,
    vae_bytes: int | None = None,
    tiled: bool | None = None,
    dequantised_bytes: float = 0,
    rounded_bytes: float = 0,
) -> Memory:
    """Memory for one video, by the formula above.

    Args:
        offload: of the transformers; sharded ones stay whatever it says.
        video: frames, height and width in pixels; the recipe's where left out.
        branches: guidance branches that a step computes; with guidance on where left out.
        cached_tensors: of [tokens, dim] for each branch; those of ``dicache`` where left out, 0 without a cache.
        block_bytes: of a number between the blocks: 2 in bfloat16, 4 in float32.
        weight_bytes: of a number in the transformers' weights, and encoder_bytes: in those of the text encoders;
            ``block_bytes`` where left out.
        vae_bytes: of a number in the VAE; as the family's examples load it on a card where left out.
        tiled: decoded in tiles of 256 x 256 pixels; where left out HunyuanVideo is, and Wan in strips of rows.
        dequantised_bytes: that dequantising a matrix takes for each of its numbers, at each call.
        rounded_bytes: that rounding activations takes for each number that enters a product; then no matrix is
            dequantised.
    """
    ranks = degrees.replica_size
    parameters = model.parameters
    weight_bytes = block_bytes if weight_bytes is None else weight_bytes
    encoder_bytes = block_bytes if encoder_bytes is None else encoder_bytes
    sharded = shard_weights and ranks > 1
    held, waiting = _transformers(model, ranks, sharded, offload)
    texts = float(sum(count for folder, count in parameters.items() if folder.startswith("text_encoder")))
    if sharded and model.facts.family.shards_text_encoder:
        texts *= 2 * _SHARE_OF_TOKEN_TABLE
    text_bytes, image_bytes = int(encoder_bytes * texts), _VAE_BYTES * parameters.get("image_encoder", 0)
    local_tokens = -(-num_tokens(model, video) // degrees.sequence)  # rounded up: shards differ by one token
    tensor = local_tokens * model.dim * block_bytes
    lanes = max(1, (num_branches(model) if branches is None else branches) // degrees.cfg)
    if vae_bytes is None:
        vae_bytes = 2 if model.facts.family.vae_dtype == "float16" else _VAE_BYTES
    vae = vae_bytes * parameters["vae"]
    shape = shape_of_model(model)
    product = (model.live_tensors - _FREED_BEFORE_PRODUCT) * tensor + int(dequantised_bytes * largest_matrix(shape))
    if rounded_bytes:
        rounded = int(rounded_bytes * local_tokens * widest_input(shape))
        product = (model.live_tensors - _FREED_BEFORE_ROUNDING) * tensor + rounded
    return Memory(
        transformer=int(weight_bytes * held),
        encoders=max(text_bytes, image_bytes),
        cache=cached_tensors * lanes * tensor,
        step=lanes * tensor + max(model.live_tensors * tensor, product),
        decode=vae + _decode(model, video or model.video, ranks, vae_bytes, tiled),
        vae=vae,
        all_encoders=text_bytes + image_bytes,
        waiting=int(weight_bytes * waiting),
    )


def _transformers(model: PublishedModel, ranks: int, sharded: bool, offload: Offload) -> tuple[float, float]:
    """Parameters on the card, and in the host's memory."""
    experts = [float(model.parameters[folder]) for folder in model.facts.transformers]
    shape = shape_of_model(model)
    if sharded:
        return sum(experts) / ranks + _GATHERED_BLOCKS * largest_block(shape), 0
    if offload == "blocks":
        outside = sum(experts) - len(experts) * all_blocks(shape)
        return outside + _STREAMED_BLOCKS * largest_block(shape), sum(experts)
    if offload == "experts" and len(experts) > 1:
        return max(experts), sum(experts)
    return sum(experts), 0


@cache
def _tiled_peak(video: TiledVideo) -> int:
    return video.peak()


def _decode(model: PublishedModel, video: VideoSize, ranks: int, vae_bytes: int, tiled: bool | None) -> int:
    """Bytes that decoding takes beside the VAE's weights."""
    frames, height, width = video
    share = vae_bytes / _VAE_BYTES
    if model.decode_bytes_per_pixel:
        per_pixel = share * model.decode_bytes_per_pixel
        if not tiled:
            return int(per_pixel * -(-height // ranks) * width)
        packed = int(model.vae.get("patch_size", 1)) > 1
        return _tiled_peak(TiledVideo(frames, height, width, ranks, vae_bytes, per_pixel, packed=packed))
    chunked = shape_of_model(model).kind == "hunyuan_video"
    per_pixel = share * model.decode_bytes_per_tile / TILE**2 * (1 if chunked else frames / model.video[0])
    cut = TiledVideo(frames, height, width, ranks, vae_bytes, per_pixel, chunked=chunked)
    if tiled is False:
        cut = replace(cut, whole=True, mask=_mask(model, video, vae_bytes) if chunked else 0)
    return _tiled_peak(cut)


def _mask(model: PublishedModel, video: VideoSize, vae_bytes: int) -> int:
    """Bytes of the mask with which HunyuanVideo 1.0 attends to the latents of a chunk with whole frames: made in
    float32, beside one of booleans or its copy in float16. 1.5 has one too, beside which its activations are larger."""
    _, frames, rows, columns = model.facts.latents_shape(*video)
    beside = 1 if vae_bytes == _VAE_BYTES else vae_bytes
    return (_MASK_BYTES + beside) * (min(frames, CHUNK_LATENTS) * rows * columns) ** 2
