"""How the tiled autoencoders of diffusers cut a video: which latents a tile is decoded from, and how large it is then.

The sizes are those that the VAE has as attributes, which one on the meta device has too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

Shape = tuple[int, ...]


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


@dataclass(frozen=True)
class Cut:
    """The tiles of a HunyuanVideo.

    time: latent frames. More than four 1.0 decodes in chunks of five, each with a first frame by itself.
    grid: rows and columns of latents.
    """

    time: Axis
    grid: Grid

    @property
    def places(self) -> list[tuple[slice, slice, slice]]:
        """Latent frames, rows and columns of each tile, one chunk after the other."""
        return [(chunk, *place) for chunk in self.chunks for place in self.grid.tiles]

    @property
    def chunks(self) -> list[slice]:
        """Without a last one whose only frame is the one that chunks after the first leave out."""
        return [piece for piece in self.time.pieces if piece.start == 0 or piece.stop - piece.start > 1]

    def shapes(self, vae: Any) -> list[Shape]:
        """Of the decoded tiles, in the order of :attr:`places`."""
        temporal, spatial = vae.temporal_compression_ratio, vae.spatial_compression_ratio
        shapes: list[Shape] = []
        for frames, *sides in self.places:
            length = (frames.stop - frames.start - 1) * temporal + 1
            pixels = ((side.stop - side.start) * spatial for side in sides)
            shapes.append((1, vae.config.out_channels, length, *pixels))
        return shapes


def hunyuan_cut(vae: Any, latents: Shape, tiled: bool) -> Cut:
    """How the VAE of HunyuanVideo or HunyuanVideo 1.5 decodes.

    Args:
        latents: their shape, [..., frames, height, width].
        tiled: as with ``vae.enable_tiling()``; else frames are whole, and 1.0 cuts time alone.
    """
    frames, height, width = latents[-3:]
    temporal, spatial = vae.temporal_compression_ratio, vae.spatial_compression_ratio
    grid = Grid(*(Axis.whole(length, length * spatial) for length in (height, width)))
    if tiled:
        grid = decode_grid(vae, height, width, spatial)
    size = getattr(vae, "tile_sample_min_num_frames", None)  # 1.5 does not cut time
    if size is None or not vae.use_framewise_decoding or frames <= size // temporal:
        return Cut(Axis.whole(frames, (frames - 1) * temporal + 1), grid)
    keep = vae.tile_sample_stride_num_frames
    return Cut(Axis(frames, size // temporal + 1, keep // temporal, keep, size - keep), grid)


def wan_decode_grid(vae: Any, latents: Shape) -> Grid:
    """How a Wan VAE decodes in tiles latents of the shape [..., frames, height, width]."""
    height, width = latents[-2:]
    return decode_grid(vae, height, width, vae.config.scale_factor_spatial, vae.config.patch_size or 1)


def wan_decoded_shapes(vae: Any, latents: Shape) -> list[Shape]:
    """The shapes of the decoded tiles, whose pixels are packed as the decoder packs them."""
    config = vae.config
    scale = config.scale_factor_spatial // (config.patch_size or 1)
    frames = (latents[-3] - 1) * config.scale_factor_temporal + 1
    return [
        (1, config.out_channels, frames, *((side.stop - side.start) * scale for side in place))
        for place in wan_decode_grid(vae, latents).tiles
    ]


def wan_encode_grid(vae: Any, video: Shape) -> Grid:
    """How a Wan VAE encodes in tiles a video of the shape [..., frames, height, width]; of packed pixels."""
    patch = vae.config.patch_size or 1
    height, width = video[-2:]
    return encode_grid(vae, height // patch, width // patch, vae.config.scale_factor_spatial // patch)


def wan_encoded_shapes(vae: Any, video: Shape) -> list[Shape]:
    """The shapes of the means of the encoded tiles."""
    config = vae.config
    scale = config.scale_factor_spatial // (config.patch_size or 1)
    frames = (video[-3] - 1) // config.scale_factor_temporal + 1
    return [
        (1, config.z_dim, frames, *((side.stop - side.start) // scale for side in place))
        for place in wan_encode_grid(vae, video).tiles
    ]


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
