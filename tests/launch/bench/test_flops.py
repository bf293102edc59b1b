"""FLOPs of a bench: those that torch counts while a small model of each family denoises."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.config import Config
from engine.config_file import load_config
from engine.execution.loaded import load_model
from engine.generation.generation import Generation
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from launch.bench.flops import count_all
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.support import hunyuan15_inputs, hunyuan_images
from tests.support.flop_counts import counter
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.pictures import write_pictures
from tests.support.small_model import PROMPT, ROOT, tiny_config
from tests.support.tiny_models import TINY_MODELS

SMALL = ("sampling.steps=4", "sampling.frames=5", "sampling.height=48", "sampling.width=80")
SKIPPING = ("cache.method=interval", "cache.gate.interval=2", "cache.warmup_ratio=0.0", "cache.warmup_steps=1")


def wan(folder: Path) -> tuple[Config, GenerationRequest]:
    config = tiny_config(*SMALL, "cache.threshold=0.5")
    return config, make_request([PROMPT], "", 0, config.sampling)


def hunyuan(folder: Path) -> tuple[Config, GenerationRequest]:
    path = write_hunyuan_checkpoint(folder)
    config = tiny_config(f"model.path={path}", *SMALL, "sampling.scheduler=euler", *SKIPPING, "sampling.guidance=6")
    return config, make_request(["a cat that walks"], "", 0, config.sampling)


def hunyuan_image(folder: Path) -> tuple[Config, GenerationRequest]:
    models, pictures = hunyuan_images.write_models(folder), hunyuan_images.write_pictures(folder)
    config = hunyuan_images.configured(models[hunyuan_images.REPLACE])
    return config, hunyuan_images.asked(config, pictures["lying"], "a red circle")


def hunyuan15(folder: Path) -> tuple[Config, GenerationRequest]:
    asked = hunyuan15_inputs.write_checkpoints(folder).ask("text")
    return asked.config, asked.request


def hunyuan15_image(folder: Path) -> tuple[Config, GenerationRequest]:
    asked = hunyuan15_inputs.write_checkpoints(folder).ask("image")
    return asked.config, asked.request


def wan_image(folder: Path) -> tuple[Config, GenerationRequest]:
    tiny = TINY_MODELS["Wan 2.1 I2V 14B 480P"]
    overrides = [*tiny.overrides(tiny.write(folder / "model")), "sampling.steps=2", "cache.method=none"]
    config = load_config(ROOT / "configs" / "wan2.1-i2v-14b-480p.yaml", overrides)
    return config, make_request([PROMPT], "", 0, config.sampling, write_pictures(folder)[0])


# tests/engine/test_cost_flops.py and test_cost_components.py count the parts of every family by themselves
SLOW = pytest.mark.slow
LARGER = [pytest.param(case, marks=SLOW) for case in (wan_image, hunyuan_image, hunyuan15, hunyuan15_image)]


@pytest.mark.parametrize("case", [wan, hunyuan, *LARGER], ids=lambda case: case.__name__)
def test_the_flops_of_a_video_are_those_that_torch_counts(
    case: Callable[[Path], tuple[Config, GenerationRequest]], tmp_path: Path
) -> None:
    """Within 1%: torch counts the few products of scalars that no kind of layer names."""
    config, request = case(tmp_path)
    model = load_model(config, Ranks())
    generation = Generation(model, request, Progress(), measure=True)
    by_stage = {}
    with torch.inference_mode():
        with counter() as counted:
            encoded = generation.encode()
        by_stage["encode"] = counted.get_total_flops()
        with counter() as counted:
            latents = generation.denoise(encoded)
        by_stage["denoise"] = counted.get_total_flops()
        with counter() as counted:
            list(model.autoencoder.decode(latents[0], CollectiveMeter()))
        by_stage["decode"] = counted.get_total_flops()
    measured = generation.measurements()
    assert measured is not None
    rows = generation.report(generation.collect_usage(), latents, [])["steps"]
    flops = count_all(model.config, model.facts, request, rows, measured.texts)
    assert flops is not None
    assert sum(flops.by_kind.values()) == flops.by_stage["denoise"]
    assert flops.by_stage == pytest.approx(by_stage, rel=0.01)


def test_without_the_lengths_of_its_texts_hunyuan_video_is_not_guessed(tmp_path: Path) -> None:
    config, request = hunyuan(tmp_path)
    facts = load_model(config, Ranks()).facts
    row = {"step": 0, "sample": 0, "branch": "cond", "action": "compute", "timestep": 999.0}
    assert count_all(config, facts, request, [row], ()) is None
