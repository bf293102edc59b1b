"""The Wan VAE in overlapping tiles, for cards that are too small for whole frames.

A tile passes through the VAE with all frames of its video, one latent frame after the other, so what causal
convolutions remember, half of the memory of a frame, is that of one tile. Tiles are those of diffusers'
``vae.enable_tiling()``, the ranks of a replica share them out, and the picture is that of diffusers bit for bit.
Finished rows of tiles are kept as uint8 in the host's memory, which grows with the length of the video.
"""

from collections import deque
from collections.abc import Generator, Iterator

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor, nn

from engine.components.tiling import join
from engine.cost.autoencoders import wan_bytes_per_pixel
from engine.cost.memory import fits
from engine.media.video import NOT_FINITE, to_uint8
from engine.models.tiles import wan_decode_grid, wan_decoded_shapes, wan_encode_grid, wan_encoded_shapes
from parallel.broadcast import broadcast_from_first, objects_of_all
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.rows import plan_strips
from parallel.tiles import count_tiles, shared_tiles


def needs_tiles(vae: AutoencoderKLWan, latents: tuple[int, ...], ranks: Ranks) -> bool:
    """Whether strips of whole rows, with what this process holds already, would be too much for a rank's card.
    Collective over the replica, on CUDA; never on the CPU.

    Args:
        latents: their shape, [..., height, width].
    """
    if ranks.device.type != "cuda":
        return False
    scale = vae.config.scale_factor_spatial
    rows, width = plan_strips(latents[-2], ranks).height * scale, latents[-1] * scale
    weights = sum(parameter.nbytes for parameter in vae.parameters())
    strip = wan_bytes_per_pixel(vae.config, vae.dtype.itemsize) * rows * width
    held = torch.cuda.memory_allocated(ranks.device)
    memory = torch.cuda.get_device_properties(ranks.device).total_memory
    return any(objects_of_all(not fits(held + weights + strip, memory), ranks))


def decode_tiles(
    vae: AutoencoderKLWan, decoder: nn.Module, latents: Tensor, ranks: Ranks, meter: CollectiveMeter
) -> Generator[Tensor, None, None]:
    """Decode one sample; collective. The layers of the VAE have to be told that a rank has all rows.

    Args:
        decoder: called with (latents, packed=True); yields pixels as the VAE packs them for one latent frame after the
            other.
        latents: [1, channels, frames, height, width] as the decoder takes them.

    Returns:
        On the first rank uint8 frames [frames, height, width, 3] on the CPU, in the end.

    Raises:
        NotFiniteError: some rank has decoded to NaN or infinity; on all ranks alike.
    """
    grid = wan_decode_grid(vae, latents.shape)
    places = grid.tiles

    def decode_tile(number: int) -> Tensor:
        rows, columns = places[number]
        return torch.cat(list(decoder(latents[..., rows, columns], packed=True)), dim=2)

    tiles = shared_tiles(wan_decoded_shapes(vae, latents.shape), vae.dtype, decode_tile, *NOT_FINITE, ranks, meter)
    if ranks.replica_rank == 0:
        patch = vae.config.patch_size or 1
        rows_of_frames = [to_uint8(unpatchify(row, patch)[0]).cpu() for row in join(grid, tiles)]
        video = torch.cat(rows_of_frames, dim=-2)
        for frames in video.split(vae.config.scale_factor_temporal, dim=1):
            yield frames.permute(1, 2, 3, 0).contiguous()
    deque(tiles, maxlen=0)  # on other ranks none come, but are made and sent


def count_decode_tiles(vae: AutoencoderKLWan, latents: Tensor, ranks: Ranks) -> list[int]:
    """How many tiles each rank decodes. Latents as of :func:`decode_tiles`."""
    return count_tiles(wan_decoded_shapes(vae, latents.shape), ranks.replica_size)


def encode_tiles(
    vae: AutoencoderKLWan, encoder: nn.Module, video: Tensor, ranks: Ranks, meter: CollectiveMeter
) -> Tensor:
    """Encode one video; collective. The layers of the VAE have to be told that a rank has all rows.

    Args:
        encoder: called with an iterator over the pixels for one latent frame after the other; gives the mean of the
            posterior.
        video: [1, 3, frames, height, width] in [-1, 1], equal on every rank, on the CPU or the device.

    Returns:
        The mean of the posterior [1, channels, latent frames, latent height, latent width], on every rank.

    Raises:
        NotFiniteError: some rank has encoded to NaN or infinity; on all ranks alike.
    """
    config = vae.config
    patch, temporal = config.patch_size or 1, config.scale_factor_temporal
    frames = video.shape[2]
    grid = wan_encode_grid(vae, video.shape)
    places = grid.tiles

    def pieces(number: int) -> Iterator[Tensor]:
        rows, columns = (slice(side.start * patch, side.stop * patch) for side in places[number])
        for piece in video[..., rows, columns].split([1] + [temporal] * ((frames - 1) // temporal), dim=2):
            yield piece.to(ranks.device, vae.dtype)

    shapes = wan_encoded_shapes(vae, video.shape)

    def encode_tile(number: int) -> Tensor:
        tile: Tensor = encoder(pieces(number))
        return tile.contiguous()

    what, advice = "The encoded images", "check the VAE's weights, or use a wider dtype with model.vae_dtype"
    tiles = shared_tiles(shapes, vae.dtype, encode_tile, what, advice, ranks, meter)
    latents = [{"latents": torch.cat(list(join(grid, tiles)), dim=-2)}] if ranks.replica_rank == 0 else None
    deque(tiles, maxlen=0)
    (everywhere,) = broadcast_from_first(latents, ranks, meter)
    return everywhere["latents"]
