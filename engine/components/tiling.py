"""Joins the tiles of diffusers' tiled autoencoders, which may be made anywhere.

The blending is diffusers' own arithmetic in fewer operations: the result is that of ``vae.enable_tiling()``, bit for
bit.
"""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from engine.media.video import to_uint8
from engine.models.tiles import Cut, Grid


def join(grid: Grid, tiles: Iterator[Tensor]) -> Iterator[Tensor]:
    """Blend tiles into rows of the picture, from the top.

    Args:
        tiles: [..., height, width] each, row by row. They are changed: what overlaps is blended in place.

    Returns:
        [..., height, width of the picture], one for each row of tiles.
    """
    above: list[Tensor] = []
    for _ in grid.rows.pieces:
        row = [next(tiles) for _ in grid.columns.pieces]
        for j, tile in enumerate(row):
            if above:
                blend(above[j], tile, grid.rows.blend, -2)
            if j > 0:
                blend(row[j - 1], tile, grid.columns.blend, -1)
        above = row
        yield torch.cat([tile[..., : grid.rows.keep, : grid.columns.keep] for tile in row], dim=-1)


def join_chunks(cut: Cut, tiles: Iterator[Tensor]) -> Iterator[Tensor]:
    """Finished tiles → uint8 frames [3, frames, height, width] on the CPU, chunk for chunk."""
    if len(cut.chunks) == 1:  # a row is finished once it is blended, and need not stay on the device
        yield torch.cat([to_uint8(row[0]).cpu() for row in join(cut.grid, tiles)], dim=-2)
        return
    before: Tensor | None = None
    for _ in cut.chunks:
        chunk = torch.cat(list(join(cut.grid, islice(tiles, len(cut.grid.tiles)))), dim=-2)
        if before is not None:
            chunk = chunk[:, :, 1:]
            blend(before, chunk, cut.time.blend, 2)
        yield to_uint8(chunk[0, :, : cut.time.keep + (before is None)]).cpu()
        before = chunk


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
