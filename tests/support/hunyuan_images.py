"""What the tests of HunyuanVideo with an image share: models, pictures, requests, and one rank's answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from engine.config import Config
from engine.engine import Engine, Result
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel.ranks import Ranks
from tests.support.hunyuan_image_checkpoint import write_hunyuan_image_checkpoint
from tests.support.pictures import picture
from tests.support.small_model import tiny_config

CONCAT, REPLACE = "latent_concat", "token_replace"
KINDS = (CONCAT, REPLACE)
SHORT = "a red circle"  # with its end 4 tokens beside 288 or 144 of the image, which two and four ranks divide
LONG = "a blue square moving slowly left on the navy background"  # 11 tokens, which they do not

Case = tuple[Config, GenerationRequest]


def write_models(folder: Path) -> dict[str, Path]:
    """A tiny model of each kind."""
    return {kind: write_hunyuan_image_checkpoint(folder / kind, kind) for kind in KINDS}


def write_pictures(folder: Path) -> dict[str, Path]:
    """Smooth colours, upright where the video is wide; one lies on its side until its EXIF is read."""
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown turned by 90 degrees clockwise
    for seed, name in enumerate(("lying", "other")):
        picture(seed, 90, 70).save(folder / f"{name}.png", exif=exif if name == "lying" else None)
    return {name: folder / f"{name}.png" for name in ("lying", "other")}


def configured(model: Path, *overrides: str) -> Config:
    """3 x 3 x 5 = 45 tokens, of which 15 are the first frame's."""
    guidance = 6 if model.name == REPLACE else 1
    small = ["height=48", "width=80", "frames=9", "steps=4", f"guidance={guidance}", "shift=7", "scheduler=euler"]
    sampling = [f"sampling.{setting}" for setting in (*small, "max_sequence_length=256")]
    return tiny_config(f"model.path={model}", "cache.method=none", *sampling, *overrides)


def asked(config: Config, image: Path, *prompts: str, negative_prompt: str = "") -> GenerationRequest:
    return make_request(prompts, negative_prompt, 11, config.sampling, image)


def generate(ranks: Ranks, cases: Sequence[Case], output: Path | None = None) -> list[Result]:
    """One request after the other, on one loaded model."""
    model = load_model(cases[0][0], ranks)
    return [Engine(replace(model, config=config), Progress()).generate(request, output) for config, request in cases]
