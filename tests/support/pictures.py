"""Pictures to give to image-to-video models."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Smooth colours, of which no part is like another."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_pictures(folder: Path) -> tuple[Path, Path]:
    """A first and a last frame, of another size and shape than any test's video."""
    files = folder / "first.png", folder / "last.png"
    for seed, file in enumerate(files):
        picture(seed, 70, 90).save(file)
    return files
