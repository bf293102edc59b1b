"""The data: captions and clips of one shape moving over a softly shaded background, drawn on the fly."""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NUM_FRAMES = 17
FRAME_SIZE = 64

SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
COLOURS = {
    "red": (0.88, 0.16, 0.16),
    "green": (0.20, 0.74, 0.28),
    "blue": (0.26, 0.52, 1.00),
    "yellow": (0.96, 0.85, 0.22),
    "magenta": (0.86, 0.26, 0.84),
    "white": (0.95, 0.95, 0.95),
}
BACKGROUNDS = {"navy": (0.09, 0.11, 0.30), "gray": (0.50, 0.50, 0.53), "brown": (0.38, 0.23, 0.12)}

RADIUS_PIXELS = (9.0, 12.0)
SPEED_PIXELS_PER_FRAME = (1.2, 1.9)
EDGE_PIXELS = 2.0
HALF_WIDTH_IN_RADII = {"circle": 1.0, "square": 0.89, "triangle": 1.18}
SHADING = 0.18
HELD_OUT_ONE_IN = 6
MAX_HELD_OUT_PER_PAIR = 2
DEMO_CAPTION = "a red circle moving right on a navy background"


class Scene(NamedTuple):
    """What a caption says about a clip."""

    colour: str
    shape: str
    direction: str
    background: str

    @property
    def caption(self) -> str:
        return f"a {self.colour} {self.shape} moving {self.direction} on a {self.background} background"


def all_scenes() -> list[Scene]:
    return [Scene(*words) for words in itertools.product(COLOURS, SHAPES, DIRECTIONS, BACKGROUNDS)]


def split_scenes() -> tuple[list[Scene], list[Scene]]:
    """(training, held-out): scenes picked by a hash of the caption never enter training.

    The demo caption is held out by choice, so that it shows a combination the model has not been trained on.
    At most MAX_HELD_OUT_PER_PAIR scenes share a colour and one more word: every pair is well seen in training.
    """

    def rank(scene: Scene) -> tuple[bool, str]:
        return scene.caption != DEMO_CAPTION, hashlib.sha256(scene.caption.encode()).hexdigest()

    ranked = sorted(all_scenes(), key=rank)
    held_out: list[Scene] = []
    num_held_out_with: Counter[tuple[str, str]] = Counter()
    for scene in ranked[: len(ranked) // HELD_OUT_ONE_IN]:
        pairs = [(scene.colour, word) for word in scene[1:]]
        if all(num_held_out_with[pair] < MAX_HELD_OUT_PER_PAIR for pair in pairs):
            num_held_out_with.update(pairs)
            held_out.append(scene)
    return [scene for scene in ranked if scene not in held_out], held_out


def signed_distance(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Distance in pixels from the outline, negative inside; shapes of one radius look about equally large."""
    if shape == "circle":
        return torch.hypot(x, y) - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - HALF_WIDTH_IN_RADII[shape] * radius
    slanted = (math.sqrt(3) * x.abs() - y) / 2
    return torch.maximum(slanted, y) - 0.68 * radius


def coverage(distance: Tensor) -> Tensor:
    """Share of a pixel inside the shape, 1 inside to 0 outside over EDGE_PIXELS."""
    ramp = (0.5 - distance / EDGE_PIXELS).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def uniform(low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand((), generator=generator)


def draw_background(background: str, generator: torch.Generator) -> Tensor:
    """[3, H, W] in 0..1: one colour, brighter towards a random side of the top."""
    angle = uniform(-math.pi / 4, math.pi / 4, generator)
    axis = torch.linspace(-1, 1, FRAME_SIZE)
    shade = 1 - SHADING * (axis[:, None] * angle.cos() + axis[None, :] * angle.sin())
    return torch.tensor(BACKGROUNDS[background])[:, None, None] * shade


def draw_clip(scene: Scene, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clip [3, F, H, W] in -1..1 and the shape's centre in pixels [F, 2] (x, y).

    Size, speed and place are random; the shape stays whole in every frame.
    """
    radius = uniform(*RADIUS_PIXELS, generator)
    heading = torch.tensor(DIRECTIONS[scene.direction])
    travel = uniform(*SPEED_PIXELS_PER_FRAME, generator) * (NUM_FRAMES - 1)
    margin = max(1.02, HALF_WIDTH_IN_RADII[scene.shape]) * radius + 1
    room = FRAME_SIZE - 2 * margin - travel * heading.abs()
    # The triangle reaches 0.68 radius below its origin, 1.36 above: unlifted, its tip leaves the frame.
    lift = 0.34 * radius if scene.shape == "triangle" else torch.zeros(())
    start = margin + travel * heading.clamp(max=0).abs() + room * torch.rand(2, generator=generator)
    centre = start + heading * travel * torch.linspace(0, 1, NUM_FRAMES)[:, None]
    pixel = torch.arange(FRAME_SIZE) + 0.5
    x = pixel[None, None, :] - centre[:, 0, None, None]
    y = pixel[None, :, None] - (centre[:, 1, None, None] + lift)
    alpha = coverage(signed_distance(scene.shape, x, y, radius))
    colour = torch.tensor(COLOURS[scene.colour])[:, None, None, None]
    frames = torch.lerp(draw_background(scene.background, generator)[:, None], colour, alpha[None])
    return frames * 2 - 1, centre


def draw_batch(scenes: Sequence[Scene], generator: torch.Generator) -> Tensor:
    """Clips [B, 3, F, H, W] float32 in -1..1, one per scene."""
    return torch.stack([draw_clip(scene, generator)[0] for scene in scenes])


def pick_scenes(scenes: Sequence[Scene], num_scenes: int, generator: torch.Generator) -> list[Scene]:
    return [scenes[i] for i in torch.randint(len(scenes), (num_scenes,), generator=generator).tolist()]
