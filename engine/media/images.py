"""Reads image files as PIL images, as diffusers' pipelines take them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

from engine.errors import InvalidInput, RankFailure
from engine.media.profiles import Note, to_srgb

LONGEST_SIDE = 100
"""Times that one side of an image may be the other: image processors scale the shorter side to a fixed length."""


def read_image(path: Path, option: str, background: str = "white", note: Note = lambda complaint: None) -> Image.Image:
    """The image in a file: the first of an animation, upright (with its EXIF orientation applied), opaque, in sRGB and
    of mode RGB.

    Args:
        option: with which the user gave the path, for the error.
        background: the colour that shows where the image is transparent, as :data:`PIL.ImageColor` reads it.
        note: told in one line if something in the file is not followed: frames after the first, a damaged profile.

    Raises:
        InvalidInput: there is no such file, or it is no image, damaged, of more than 16 bits a channel, a hundred times
            longer than wide, or larger than Pillow's limit for safe decoding (89 million pixels).
    """

    def refuse(complaint: str) -> InvalidInput:
        return InvalidInput(f"{option} is {str(path)!r}, {complaint}.")

    try:
        if not path.exists():
            raise refuse("which is not there: check the path")
        if not path.is_file():  # a pipe can be read only once, but this check reads it, and then every replica
            raise refuse("which is not an ordinary file: choose another")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                if max(width, height) > LONGEST_SIDE * min(width, height):
                    raise refuse(f"which has {width}×{height} pixels: give one that is more like the video")
                if image.mode in ("I", "F"):  # any range of values: Pillow would make all but the darkest white
                    raise refuse("which has more than 16 bits a channel: save it with 8")
                upright = _in_8_bits(ImageOps.exif_transpose(image))
                # phones put previews behind the picture (MPO), which nobody misses
                several = image.format != "MPO" and getattr(image, "is_animated", False)

        def say(complaint: str) -> None:
            note(f"{option} {str(path)!r}: {complaint}")

        if several:
            say("it has several frames, of which the first is taken")
        return _on_background(upright, background, say)
    except InvalidInput:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        million = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise refuse(f"which has more than {million} million pixels: scale it down") from None
    except Image.UnidentifiedImageError:
        raise refuse("which is not an image in a known format: give a PNG or JPEG file") from None
    except Exception as error:  # on damaged files Pillow's readers raise all kinds, SyntaxError and struct.error among
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise refuse(f"which cannot be read ({reason}): choose another image") from None


def reread_image(path: Path, option: str, background: str) -> Image.Image:
    """As :func:`read_image`, for a file that could be read when the request was checked.

    Raises:
        RankFailure: it cannot be read any more.
    """
    try:
        return read_image(path, option, background)
    except InvalidInput as error:
        raise RankFailure(str(error)) from error


def fit_last(last: Image.Image, first: Image.Image) -> Image.Image:
    """A last image at the first one's size: scaled until it covers that, then cropped around the centre."""
    if last.size == first.size:
        return last
    return ImageOps.fit(last, first.size, Image.Resampling.LANCZOS)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8, with alpha if one of its levels is transparent; anything else as it is."""
    if not image.mode.startswith("I;16"):
        return image
    levels = np.asarray(image).astype(np.uint16)  # of either byte order
    grey = Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    grey.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return grey


def _on_background(image: Image.Image, background: str, note: Note) -> Image.Image:
    """The image in sRGB, over the background where it is transparent. As in browsers, alpha mixes encoded values."""
    if not image.has_transparency_data:
        return to_srgb(image, note)
    grey = image.mode in ("1", "L", "LA", "La")
    layered = image.convert("LA" if grey else "RGBA")
    alpha = layered.getchannel("A")
    colours = layered.convert("L" if grey else "RGB")
    colours.info = image.info
    colours.info.pop("transparency", None)
    canvas = Image.new("RGB", image.size, ImageColor.getrgb(background)[:3])
    canvas.paste(to_srgb(colours, note), mask=alpha)
    return canvas
