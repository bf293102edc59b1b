"""Reads image files as PIL images, as diffusers' pipelines take them."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageOps

from engine.errors import InvalidInput, RankFailure


def read_image(path: Path, option: str) -> Image.Image:
    """The image in a file, upright (with its EXIF orientation applied) and RGB.

    Args:
        option: with which the user gave the path, for the error.

    Raises:
        InvalidInput: there is no such file, or it is no image, damaged, grey with more than 8 bits, or larger than
            Pillow's limit for safe decoding (89 million pixels).
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
                if image.mode.startswith(("I", "F")):  # Pillow would make all but the darkest of it white
                    raise refuse("which has more than 8 bits a channel: save it with 8")
                return ImageOps.exif_transpose(image).convert("RGB")
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


def reread_image(path: Path, option: str) -> Image.Image:
    """As :func:`read_image`, for a file that could be read when the request was checked.

    Raises:
        RankFailure: it cannot be read any more.
    """
    try:
        return read_image(path, option)
    except InvalidInput as error:
        raise RankFailure(str(error)) from error


def fit_last(last: Image.Image, first: Image.Image) -> Image.Image:
    """A last image at the first one's size: scaled until it covers that, then cropped around the centre."""
    if last.size == first.size:
        return last
    return ImageOps.fit(last, first.size, Image.Resampling.LANCZOS)
