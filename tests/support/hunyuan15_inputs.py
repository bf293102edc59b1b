"""What the tests of HunyuanVideo 1.5 in the whole engine ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from engine.config import Config
from engine.engine import Engine, Result
from engine.execution.loaded import LoadedModel, load_model
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel.ranks import Ranks
from tests.support.hunyuan15_checkpoint import write_hunyuan15_checkpoint
from tests.support.pictures import picture
from tests.support.small_model import tiny_config

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
        shape: str = "wide",
    ) -> Asked:
        """Of the model for ``task``, "text" or "image": 3 x 3 x 5 = 45 tokens by default, and no cache."""
        small = ["height=48", "width=80", "frames=9", "steps=4", "guidance=6", "shift=5", "scheduler=euler"]
        sampling = [f"sampling.{setting}" for setting in (*small, "max_sequence_length=100")]
        config = tiny_config(f"model.path={getattr(self, task)}", "cache.method=none", *sampling, *overrides)
        image = getattr(self, shape) if task == "image" else None
        return Asked(config, make_request(prompts, negative_prompt, 11, config.sampling, image))


def write_checkpoints(folder: Path) -> Checkpoints:
    text, image = (write_hunyuan15_checkpoint(folder / name, images=name == "image") for name in ("text", "image"))
    wide, high, lying = (folder / f"{name}.png" for name in ("wide", "high", "lying"))
    picture(0, 120, 70).save(wide)
    picture(1, 70, 90).save(high)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown turned by 90 degrees clockwise
    picture(2, 120, 70).transpose(Image.Transpose.ROTATE_90).save(lying, exif=exif)
    return Checkpoints(text, image, wide, high, lying)


def generate(ranks: Ranks, asked: Sequence[Asked], output: Path | None = None) -> list[Result]:
    """One request after the other, each model loaded once: what one leaves behind would show in the next."""
    models: dict[tuple[str, bool], LoadedModel] = {}
    results = []
    for each in asked:
        kind = each.config.model.path, each.config.parallel.shard_weights
        if kind not in models:
            models[kind] = load_model(each.config, ranks)
        engine = Engine(replace(models[kind], config=each.config), Progress())
        results.append(engine.generate(each.request, output))
    return results
