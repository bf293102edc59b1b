"""Colours of image files, converted to sRGB by the profile that is embedded in them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

Note = Callable[[str], None]

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}
"""Pillow's mode for the colour spaces of ICC profiles (ICC.1:2022, table 19)."""
_SRGB_GAMMA, _SRGB_CHROMATICITIES = 1 / 2.2, (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)


def to_srgb(image: Image.Image, note: Note) -> Image.Image:
    """The picture in mode RGB, converted from the colour space of its embedded ICC profile; without one it is taken
    for sRGB. A profile of sRGB itself changes no pixel.

    Args:
        image: without transparency.
        note: told in a few words, to be put behind the name of the file, if what the file says of its colours cannot
            be followed.
    """
    content = image.info.get("icc_profile")
    if not content:
        _note_unprofiled(image, note)
        return _to_srgb(image, ImageCms.createProfile("LAB")) if image.mode == "LAB" else image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = profile.profile.xcolor_space.strip()
        mode = _MODES.get(space)
        if mode is None or (mode != image.mode and mode in ("CMYK", "LAB")) or (mode == "L" and not _is_grey(image)):
            note(f"its colour profile is for {space}, and its colours are {image.mode}: they are taken for sRGB")
            return image.convert("RGB")
        return _to_srgb(image.convert(mode), profile)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError) as error:
        note(f"its colour profile cannot be used ({' '.join(str(error).split())}): its colours are taken for sRGB")
        return image.convert("RGB")


def _to_srgb(image: Image.Image, profile: Any) -> Image.Image:
    """By the profile, in mode RGB.

    Raises:
        PyCMSError: the profile is damaged.
    """
    intent, flags = ImageCms.Intent.PERCEPTUAL, ImageCms.Flags.BLACKPOINTCOMPENSATION
    transform = ImageCms.buildTransform(
        profile, ImageCms.createProfile("sRGB"), image.mode, "RGB", renderingIntent=intent, flags=flags
    )
    if image.mode in ("RGB", "L") and _changes_nothing(transform, image.mode):
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # as it is for a transform in place
    return converted


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform is the identity up to rounding, which would otherwise change pixels by 1 of 255."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    grid = levels[None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    before = Image.fromarray(grid)
    after = ImageCms.applyTransform(before, transform)
    difference = np.asarray(after, dtype=int) - np.asarray(before.convert("RGB"), dtype=int)
    return bool(np.abs(difference).max() <= 1)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L")


def _note_unprofiled(image: Image.Image, note: Note) -> None:
    """Say what a file without a profile tells of its colours, if that is not sRGB."""
    info = image.info
    gamma, primaries = info.get("gamma"), info.get("chromaticity")
    if "srgb" not in info:  # a PNG with an sRGB chunk is sRGB, whatever its other chunks say
        if gamma and abs(gamma - _SRGB_GAMMA) > 0.01:
            note(f"it has a gamma of {gamma:g} and no colour profile: its colours are taken for sRGB")
        elif primaries and np.abs(np.subtract(primaries, _SRGB_CHROMATICITIES)).max() > 0.01:
            note("it has primaries other than those of sRGB and no colour profile: its colours are taken for sRGB")
    exif = image.getexif()
    if exif.get_ifd(0xA005).get(1) == "R03":  # interoperability index of DCF's optional colour space
        note("it is in Adobe RGB and has no colour profile: its colours are taken for sRGB")
