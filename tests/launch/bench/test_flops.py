"""FLOPs of a bench: those that torch counts while a small model of each family denoises."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.config import Config
from engine.execution.loaded import load_model
from engine.generation.generation import Generation
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from launch.bench.flops import count_flops
from parallel.ranks import Ranks
from tests.support import hunyuan15_inputs, hunyuan_images
from tests.support.flop_counts import counter
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.small_model import PROMPT, tiny_config

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
    asked = hunyuan15_inputs.write_checkpoints(folder).ask("text")  # the small image encoder makes fewer tokens
    return asked.config, asked.request


@pytest.mark.parametrize("case", [wan, hunyuan, hunyuan_image, hunyuan15], ids=lambda case: case.__name__)
def test_the_flops_of_a_video_are_those_that_torch_counts(
    case: Callable[[Path], tuple[Config, GenerationRequest]], tmp_path: Path
) -> None:
    """Within 1%: torch counts the few products of scalars that no kind of layer names."""
    config, request = case(tmp_path)
    model = load_model(config, Ranks())
    generation = Generation(model, request, Progress(), measure=True)
    with torch.inference_mode():
        encoded = generation.encode()
        with counter() as counted:
            latents = generation.denoise(encoded)
    measured = generation.measurements()
    assert measured is not None
    rows = generation.report(generation.collect_usage(), latents, [])["steps"]
    flops = count_flops(model.config, model.facts, request, rows, measured.texts)
    assert flops is not None
    assert sum(flops.values()) == pytest.approx(counted.get_total_flops(), rel=0.01)


def test_without_the_lengths_of_its_texts_hunyuan_video_is_not_guessed(tmp_path: Path) -> None:
    config, request = hunyuan(tmp_path)
    facts = load_model(config, Ranks()).facts
    row = {"step": 0, "sample": 0, "branch": "cond", "action": "compute", "timestep": 999.0}
    assert count_flops(config, facts, request, [row], ()) is None
