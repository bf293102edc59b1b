"""Draw frames of a video over the timeline of its denoise steps.

python docs/draw_demo.py outputs/demo.mp4 outputs/demo.json docs/demo.png
"""

import json
import sys
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

NUM_FRAMES, SCALE, GAP, BAR_HEIGHT = 8, 2, 8, 26
COLOURS = {"warmup": "#12507b", "compute": "#12507b", "skip": "#bcdcf0"}


def main(video: Path, report: Path, picture: Path) -> None:
    frames = read_frames(video)
    steps = [row for row in json.loads(report.read_text())["steps"] if row["branch"] == "cond" and row["sample"] == 0]
    width, height = frames[0].width * SCALE, frames[0].height * SCALE
    canvas = Image.new("RGB", (NUM_FRAMES * (width + GAP) + GAP, height + 2 * GAP + BAR_HEIGHT + 30), "white")
    for i in range(NUM_FRAMES):
        frame = frames[round(i * (len(frames) - 1) / (NUM_FRAMES - 1))]
        canvas.paste(frame.resize((width, height), Image.Resampling.BICUBIC), (GAP + i * (width + GAP), GAP))
    draw_timeline(ImageDraw.Draw(canvas), steps, top=height + 2 * GAP, width=canvas.width)
    canvas.save(picture)


def read_frames(video: Path) -> list[Image.Image]:
    with av.open(str(video)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def draw_timeline(draw: ImageDraw.ImageDraw, steps: list[dict[str, str]], top: int, width: int) -> None:
    pitch = (width - 2 * GAP) / len(steps)
    for i, step in enumerate(steps):
        left = GAP + i * pitch
        draw.rectangle((left, top, left + pitch - 2, top + BAR_HEIGHT), fill=COLOURS[step["action"]])
    skipped = sum(step["action"] == "skip" for step in steps)
    text = f"{len(steps)} denoise steps: {len(steps) - skipped} computed, {skipped} skipped"
    draw.text((GAP, top + BAR_HEIGHT + 6), text, fill="#333333", font=ImageFont.load_default(16))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
