"""Bytes that the first rank of a replica holds while a VAE decodes in tiles, the VAE's weights not among them.

These are the activations of the tile that it makes, the finished tiles of two rounds (:mod:`parallel.tiles`), those of
two rows that are blended, and what is joined of them: a row, or with HunyuanVideo 1.0 the chunks of time at hand. What
is alive while a tile is made, and while a row or a chunk is finished, is added up for one round after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from parallel.lengths import share_out

TILE, STRIDE = 256, 192
"""Pixels along one axis, from one tile's start to the next: of diffusers' classes, for all families."""
_CHUNK_FRAMES, _CHUNK_STRIDE = 17, 12
CHUNK_LATENTS = 5
"""Latent frames of a chunk of time."""
_COUNTED_CHUNKS = 4  # those that follow hold no more
_ROUNDING = 8
"""Bytes of a number while it becomes one of 8 bits: two in float32."""


@dataclass(frozen=True)
class TiledVideo:
    """A video that is decoded in tiles.

    number_bytes: of a number in the VAE. per_pixel: bytes of activations for each pixel of a tile's frames. mask: bytes
    of the mask with which the latents of a tile attend to one another, where that may be more than all activations.
    packed: the tiles have several pixels in the channels of one. chunked: time is cut, too. whole: frames are not.
    """

    frames: int
    height: int
    width: int
    ranks: int
    number_bytes: int
    per_pixel: float
    mask: int = 0
    packed: bool = False
    chunked: bool = False
    whole: bool = False

    def peak(self) -> int:
        """The most that is held at once."""
        return int(_Decoding(self).peak())


class _Decoding:
    """The first rank's work, tile by tile; tiles are numbered in the order in which they are made."""

    def __init__(self, video: TiledVideo) -> None:
        self._video = video
        self._heights, self._widths = [video.height], [video.width]
        if max(video.height, video.width) > TILE and not video.whole:
            self._heights, self._widths = (
                [min(TILE, length - start) for start in range(0, length, STRIDE)]
                for length in (video.height, video.width)
            )
        self._chunks = [video.frames]
        if video.chunked and video.frames >= _CHUNK_FRAMES:
            starts = list(range(0, video.frames - 1, _CHUNK_STRIDE))[:_COUNTED_CHUNKS]
            self._chunks = [min(_CHUNK_FRAMES, video.frames - start) for start in starts]
        number = 3 * video.number_bytes
        self._tiles = [number * n * h * w for n in self._chunks for h in self._heights for w in self._widths]
        self._sums = list(accumulate(self._tiles, initial=0))
        self._owners = share_out(self._tiles, video.ranks)
        self._round = len(self._owners[0])

    def peak(self) -> float:
        made = max(self._while_made(number) for number in range(len(self._owners)))
        if len(self._chunks) > 1:
            return max(made, *(self._while_chunk_is_rounded(number) for number in range(len(self._chunks))))
        return max(made, *(self._while_row_is_rounded(row) for row in range(len(self._heights))))

    def _while_made(self, number: int) -> float:
        """Of a round: when the first rank makes a tile, or puts its frames together, and others are yet to be received;
        and when all have room."""
        start = number * self._round
        joined = start if self._video.ranks == 1 else max(0, start - self._round)
        own = [start + place for place, owner in enumerate(self._owners[number]) if owner == 0]
        most = max(
            (self._bytes(joined, tile + 1) + max(self._activations(tile), self._tiles[tile]) for tile in own),
            default=0.0,
        )
        return self._in_join(joined) + max(most, self._bytes(joined, start + self._round))

    def _activations(self, tile: int) -> float:
        row, column = divmod(tile, len(self._widths))
        pixels = self._heights[row % len(self._heights)] * self._widths[column]
        return max(self._video.per_pixel * pixels, self._video.mask)

    def _in_join(self, joined: int) -> float:
        """Bytes that blending holds once it has taken that many tiles."""
        columns = len(self._widths)
        rows, taken = divmod(joined, columns)
        chunk, row = divmod(rows, len(self._heights))
        held = self._bytes(joined - taken - (columns if row else 0), joined)  # with the row above
        if len(self._chunks) == 1:
            return held + (self._picture(chunk, STRIDE) if row else 0)  # the row that was rounded last
        return (
            held
            + (self._picture(chunk - 1) if chunk else 0)
            + self._picture(chunk, min(row * STRIDE, self._video.height))
        )

    def _while_row_is_rounded(self, row: int) -> float:
        start, stop = row * len(self._widths), (row + 1) * len(self._widths)
        height = STRIDE if row + 1 < len(self._heights) else self._heights[row]
        picture = self._picture(0, height)
        rounding = max(self._video.packed, _ROUNDING / self._video.number_bytes)
        return self._held(start, stop) + picture * (1 + self._video.packed + rounding)

    def _while_chunk_is_rounded(self, chunk: int) -> float:
        stop = (chunk + 1) * len(self._heights) * len(self._widths)
        before = self._picture(chunk - 1) if chunk else 0
        return self._held(stop, stop) + before + self._picture(chunk) * max(2, 1 + _ROUNDING / self._video.number_bytes)

    def _held(self, start: int, stop: int) -> float:
        """Tiles of a row, and all of the round that is being joined and of the next one, which is made already."""
        if self._video.ranks == 1:
            return self._bytes(start, stop)
        now = (stop - 1) // self._round * self._round
        return self._bytes(min(start, now), now + 2 * self._round)

    def _bytes(self, start: int, stop: int) -> int:
        count = len(self._tiles)
        return self._sums[min(stop, count)] - self._sums[min(start, count)]

    def _picture(self, chunk: int, height: int | None = None) -> float:
        """Bytes of frames of a chunk, joined."""
        frames = self._chunks[min(chunk, len(self._chunks) - 1)]
        rows = self._video.height if height is None else height
        return 3.0 * self._video.number_bytes * frames * rows * self._video.width
