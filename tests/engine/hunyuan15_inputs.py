"""What the tests of HunyuanVideo 1.5 in the whole engine ask for, and what the diffusers pipelines answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
)
from diffusers.utils import load_image
from PIL import Image

from engine.config import Config
from engine.engine import Engine, Result
from engine.loaded import LoadedModel, load_model
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel.ranks import Ranks
from tests.conftest import tiny_config
from tests.engine.hunyuan15_checkpoint import write_hunyuan15_checkpoint

PLAIN = "a red circle"
QUOTED = 'a sign that says "hello" and “good day”, moving'


@dataclass(frozen=True)
class Asked:
    """A request of a model, and how it is run."""

    config: Config
    request: GenerationRequest


@dataclass(frozen=True)
class Checkpoints:
    """Folders of both tasks' models, and pictures.

    wide: of the shape of 48 x 80 pixels, nearly. high: of none that is asked for. lying: wide, stored on its side.
    """

    text: Path
    image: Path
    wide: Path
    high: Path
    lying: Path

    def ask(
        self,
        task: str,
        *overrides: str,
        prompts: Sequence[str] = (QUOTED,),
        negative_prompt: str = "a square",
        picture: str = "wide",
    ) -> Asked:
        """Of the model for ``task``, "text" or "image": 3 x 3 x 5 = 45 tokens by default, and no cache."""
        small = ["height=48", "width=80", "frames=9", "steps=4", "guidance=6", "shift=5", "scheduler=euler"]
        sampling = [f"sampling.{setting}" for setting in (*small, "max_sequence_length=100")]
        config = tiny_config(f"model.path={getattr(self, task)}", "cache.method=none", *sampling, *overrides)
        image = getattr(self, picture) if task == "image" else None
        return Asked(config, make_request(prompts, negative_prompt, 11, config.sampling, image))


def write_checkpoints(folder: Path) -> Checkpoints:
    text, image = (write_hunyuan15_checkpoint(folder / name, images=name == "image") for name in ("text", "image"))
    wide, high, lying = (folder / f"{name}.png" for name in ("wide", "high", "lying"))
    _picture(0, 120, 70).save(wide)
    _picture(1, 70, 90).save(high)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown turned by 90 degrees clockwise
    _picture(2, 120, 70).transpose(Image.Transpose.ROTATE_90).save(lying, exif=exif)
    return Checkpoints(text, image, wide, high, lying)


def _picture(seed: int, width: int, height: int) -> Image.Image:
    """Smooth colours, of which no part is like another."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def generate(ranks: Ranks, asked: Sequence[Asked], output: Path | None = None) -> list[Result]:
    """One request after the other, each model loaded once: what one leaves behind would show in the next."""
    models: dict[str, LoadedModel] = {}
    results = []
    for each in asked:
        path = each.config.model.path
        if path not in models:
            models[path] = load_model(each.config, ranks)
        engine = Engine(replace(models[path], config=each.config), Progress())
        results.append(engine.generate(each.request, output))
    return results


def load_pipeline(task: str, checkpoints: Checkpoints) -> Any:
    kind = HunyuanVideo15ImageToVideoPipeline if task == "image" else HunyuanVideo15Pipeline
    pipeline = kind.from_pretrained(getattr(checkpoints, task))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ask_pipeline(pipeline: Any, asked: Asked, output_type: str = "latent") -> torch.Tensor:
    """What diffusers makes of the request; an image it turns upright as its own examples do."""
    request, sampling = asked.request, asked.config.sampling
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, shift=sampling.shift)
    pipeline.guider = ClassifierFreeGuidance(guidance_scale=sampling.guidance)
    pipeline.tokenizer_max_length = sampling.max_sequence_length
    size = {"height": sampling.height, "width": sampling.width}
    if request.image is not None:
        size = {"image": load_image(str(request.image))}  # whose shape gives the size of the video
    negative = [request.negative_prompt] * len(request.prompts) if request.negative_prompt else None
    frames: torch.Tensor = pipeline(
        prompt=list(request.prompts),
        negative_prompt=negative,
        num_frames=sampling.frames,
        num_inference_steps=sampling.steps,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type=output_type,
        **size,
    ).frames
    return frames


def off(latents: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert latents.shape == expected.shape
    return float((latents - expected).abs().max() / expected.abs().max())
