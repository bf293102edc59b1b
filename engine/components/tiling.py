"""How diffusers' tiled autoencoders cut a video and blend what comes out, so that tiles may be made anywhere.

The sizes are those that the VAE has as attributes, the blending is diffusers' own arithmetic in fewer operations: the
result is that of ``vae.enable_tiling()`` bit for bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """One axis, cut into pieces that overlap.

    length, size, stride: of the input: all of it, of a piece, and from one piece's start to the next.
    keep, blend: of the output: what remains of a piece, and how much of its start is blended with the piece before.
    """

    length: int
    size: int
    stride: int
    keep: int
    blend: int

    @classmethod
    def whole(cls, length: int, keep: int) -> Self:
        """An axis in one piece, of which ``keep`` is the output's length."""
        return cls(length, length, length, keep, 0)

    @property
    def pieces(self) -> list[slice]:
        """Of the input."""
        starts = range(0, self.length, self.stride)
        return [slice(start, min(start + self.size, self.length)) for start in starts]


@dataclass(frozen=True)
class Grid:
    """Rows and columns of tiles of one picture, or of all frames of a video."""

    rows: Axis
    columns: Axis

    @property
    def tiles(self) -> list[tuple[slice, slice]]:
        """Of the input, row by row."""
        return [(rows, columns) for rows in self.rows.pieces for columns in self.columns.pieces]

    def join(self, tiles: Iterator[Tensor]) -> Iterator[Tensor]:
        """Blend tiles into rows of the picture, from the top.

        Args:
            tiles: [..., height, width] each, row by row. They are changed: what overlaps is blended in place.

        Returns:
            [..., height, width of the picture], one for each row of tiles.
        """
        above: list[Tensor] = []
        for _ in self.rows.pieces:
            row = [next(tiles) for _ in self.columns.pieces]
            for j, tile in enumerate(row):
                if above:
                    blend(above[j], tile, self.rows.blend, -2)
                if j > 0:
                    blend(row[j - 1], tile, self.columns.blend, -1)
            above = row
            yield torch.cat([tile[..., : self.rows.keep, : self.columns.keep] for tile in row], dim=-1)


def blend(before: Tensor, after: Tensor, extent: int, dim: int) -> None:
    """Fade the end of one tile into the start of the next, in place of that start.

    Element y of ``extent`` is before · (1 − y / extent) + after · y / extent, each product rounded to the tiles' dtype,
    as ``AutoencoderKLHunyuanVideo.blend_v`` computes them one row after the other.

    Args:
        extent: elements that are blended, or fewer where a tile has fewer.
    """
    extent = min(before.shape[dim], after.shape[dim], extent)
    if extent == 0:
        return
    dtype = after.dtype
    wide = torch.promote_types(
        dtype, torch.float32
    )  # of one product, as kernels compute with a factor that is a number
    share = torch.arange(extent, dtype=torch.float64, device=after.device) / extent
    shape = [1] * after.ndim
    shape[dim] = extent
    fade_out, fade_in = ((1 - share).to(wide).view(shape), share.to(wide).view(shape))
    end, start = before.narrow(dim, before.shape[dim] - extent, extent), after.narrow(dim, 0, extent)
    start.copy_((end * fade_out).to(dtype) + (start * fade_in).to(dtype))


def decode_grid(vae: Any, height: int, width: int, scale: int, patch: int = 1) -> Grid:
    """The tiles in which a diffusers VAE decodes with tiling enabled; one where the picture is no larger than that.

    Args:
        vae: of HunyuanVideo, HunyuanVideo 1.5 or Wan.
        height, width: of the latents.
        scale: pixels for each latent, along one axis.
        patch: pixels that the decoder's output packs into one, along one axis.
    """
    sides = [(height, _sizes(vae, "height", scale)), (width, _sizes(vae, "width", scale))]
    if all(length <= side.latents for length, side in sides):
        return Grid(*(Axis.whole(length, length * scale // patch) for length, _ in sides))
    keeps = [side.stride // patch for _, side in sides]
    return Grid(
        *(
            Axis(length, side.latents, side.latent_stride, keep, side.pixels // patch - keep)
            for (length, side), keep in zip(sides, keeps, strict=True)
        )
    )


def encode_grid(vae: Any, height: int, width: int, scale: int) -> Grid:
    """The tiles in which a diffusers VAE encodes with tiling enabled; one where the picture is no larger than that.

    Args:
        height, width: of the encoder's input, which may be packed pixels.
        scale: elements of the input for each latent, along one axis.
    """
    sides = [(height, _sizes(vae, "height", scale)), (width, _sizes(vae, "width", scale))]
    if all(length <= side.pixels for length, side in sides):
        return Grid(*(Axis.whole(length, length // scale) for length, _ in sides))
    return Grid(
        *(
            Axis(length, side.pixels, side.stride, side.latent_stride, side.latents - side.latent_stride)
            for length, side in sides
        )
    )


@dataclass(frozen=True)
class _Side:
    """A tile along one axis, and from one tile's start to the next: in pixels and in latents."""

    pixels: int
    latents: int
    stride: int
    latent_stride: int


def _sizes(vae: Any, axis: str, scale: int) -> _Side:
    pixels = int(getattr(vae, f"tile_sample_min_{axis}"))
    if (overlap := getattr(vae, "tile_overlap_factor", None)) is not None:  # HunyuanVideo 1.5
        latents = int(getattr(vae, f"tile_latent_min_{axis}"))
        return _Side(pixels, latents, pixels - int(pixels * overlap), latents - int(latents * overlap))
    stride = int(getattr(vae, f"tile_sample_stride_{axis}"))
    return _Side(pixels, pixels // scale, stride, stride // scale)
