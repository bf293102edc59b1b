"""Says what a clip shows, and how often the model shows what was asked.

python -m configs.tiny_wan.recipe.judge configs/tiny_wan --num-prompts 100
"""

import argparse
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from diffusers import WanPipeline
from numpy.typing import NDArray

from configs.tiny_wan.recipe.shapes import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    FRAME_SIZE,
    NUM_FRAMES,
    SHADING,
    SHAPES,
    Scene,
    pick_scenes,
    signed_distance,
    split_scenes,
)
from configs.tiny_wan.recipe.vae import reconstruction_psnr

OBJECT_DISTANCE = 0.2
MIN_OBJECT_PIXELS = 40
MIN_SPEED_PIXELS_PER_FRAME = 0.5
AREA_IN_SQUARE_RADII = {"circle": math.pi, "square": 4 * 0.89**2, "triangle": 0.68**2 * 3 * math.sqrt(3)}
BATCH = 10

Frames = NDArray[np.float64]


class Verdict(NamedTuple):
    """What the clip shows, "none" where unclear, and how well the outline fits that shape (IoU, 0..1)."""

    colour: str
    shape: str
    direction: str
    background: str
    outline_iou: float

    def agrees(self, scene: Scene) -> bool:
        """Object colour, background and direction are as asked; the shape is counted on its own."""
        asked = (scene.colour, scene.direction, scene.background)
        return (self.colour, self.direction, self.background) == asked


def nearest(colour: NDArray[np.float64], palette: dict[str, tuple[float, float, float]]) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(colour - np.array(palette[name]))))


def distance_from_background(frames: Frames, background: str) -> NDArray[np.float64]:
    """Colour distance [F, H, W] of each pixel from the nearest shade of the background."""
    base = np.array(BACKGROUNDS[background])
    limit = 1.5 * SHADING
    shade = np.clip((frames @ base) / (base @ base), 1 - limit, 1 + limit)
    return np.linalg.norm(frames - shade[..., None] * base, axis=-1)


def centre_of(mask: NDArray[np.bool_]) -> tuple[float, float]:
    y, x = np.nonzero(mask)
    return float(x.mean()) + 0.5, float(y.mean()) + 0.5


def heading(centres: Sequence[tuple[float, float]], frame_indices: Sequence[int]) -> str:
    """Direction of the fitted straight motion; "none" when slow or askew."""
    speed = np.polyfit(frame_indices, np.array(centres), 1)[0]
    along = int(np.abs(speed).argmax())
    if abs(speed[along]) < MIN_SPEED_PIXELS_PER_FRAME or abs(speed[along]) < 2 * abs(speed[1 - along]):
        return "none"
    return next(name for name, unit in DIRECTIONS.items() if unit[along] * speed[along] > 0)


def outline_iou(mask: NDArray[np.bool_], centre: tuple[float, float], shape: str) -> float:
    """Overlap of the mask with the ideal shape of its area at its centre."""
    height, width = mask.shape
    radius = torch.tensor(math.sqrt(mask.sum() / AREA_IN_SQUARE_RADII[shape]))
    x = (torch.arange(width) + 0.5 - centre[0])[None, :]
    y = (torch.arange(height) + 0.5 - centre[1])[:, None]
    ideal = (signed_distance(shape, x, y, radius) < 0).numpy()
    return float((mask & ideal).sum() / (mask | ideal).sum())


def judge_clip(clip: NDArray[np.generic]) -> Verdict:
    """Verdict on frames [F, H, W, 3], uint8 or float in 0..1."""
    frames: Frames = clip.astype(np.float64) / (255.0 if clip.dtype == np.uint8 else 1.0)
    background = nearest(np.median(frames, axis=(0, 1, 2)), BACKGROUNDS)
    masks = distance_from_background(frames, background) > OBJECT_DISTANCE
    seen = [i for i in range(len(frames)) if masks[i].sum() >= MIN_OBJECT_PIXELS]
    if 2 * len(seen) < len(frames):
        return Verdict("none", "none", "none", background, 0.0)
    # The median over the object's pixels: its soft edge mixes with the background.
    colour = nearest(np.median(frames[masks], axis=0), COLOURS)
    centres = [centre_of(masks[i]) for i in seen]
    outlines = [(masks[i], centre) for i, centre in zip(seen, centres, strict=True)]
    fit = {s: float(np.mean([outline_iou(mask, centre, s) for mask, centre in outlines])) for s in SHAPES}
    shape = max(fit, key=lambda name: fit[name])
    return Verdict(colour, shape, heading(centres, seen), background, fit[shape])


def generate(
    pipeline: WanPipeline,
    prompts: list[str],
    seeds: list[int],
    num_inference_steps: int,
    guidance_scale: float,
) -> Frames:
    """Clips [B, F, H, W, 3] in 0..1, one per prompt and seed."""
    return pipeline(
        prompts,
        height=FRAME_SIZE,
        width=FRAME_SIZE,
        num_frames=NUM_FRAMES,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).frames


def judge_pipeline(
    pipeline: WanPipeline,
    num_prompts: int,
    seed: int,
    num_inference_steps: int = 50,
    guidance_scale: float = 5.0,
) -> dict[str, float]:
    """Shares right over random held-out prompts, each with its own seed."""
    pipeline.set_progress_bar_config(disable=True)
    scenes = pick_scenes(split_scenes()[1], num_prompts, torch.Generator().manual_seed(seed))
    verdicts: list[Verdict] = []
    for first in range(0, num_prompts, BATCH):
        part = scenes[first : first + BATCH]
        seeds = [1000 * seed + first + i for i in range(len(part))]
        clips = generate(pipeline, [s.caption for s in part], seeds, num_inference_steps, guidance_scale)
        verdicts += [judge_clip(clip) for clip in clips]
    pairs = list(zip(verdicts, scenes, strict=True))
    return {
        "colour, background and direction": float(np.mean([v.agrees(s) for v, s in pairs])),
        "colour": float(np.mean([v.colour == s.colour for v, s in pairs])),
        "background": float(np.mean([v.background == s.background for v, s in pairs])),
        "direction": float(np.mean([v.direction == s.direction for v, s in pairs])),
        "shape": float(np.mean([v.shape == s.shape for v, s in pairs])),
        "outline IoU": float(np.mean([v.outline_iou for v in verdicts])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge a trained pipeline on prompts held out of its training.")
    parser.add_argument("model", help="pipeline folder")
    parser.add_argument("--num-prompts", type=int, default=100)
    parser.add_argument("--num-inference-steps", type=int, default=50)
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    pipeline = WanPipeline.from_pretrained(args.model)
    print(f"VAE reconstruction: {reconstruction_psnr(pipeline.vae, 40, args.seed):.2f} dB PSNR over 40 clips")
    shares = judge_pipeline(pipeline, args.num_prompts, args.seed, args.num_inference_steps, args.guidance_scale)
    print(f"right over {args.num_prompts} held-out prompts:")
    for name, share in shares.items():
        print(f"  {name}: {share:.3f}")


if __name__ == "__main__":
    main()
