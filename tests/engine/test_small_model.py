"""The small model that ships is trained, small, and shows what it is asked for."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from configs.tiny_wan.recipe.judge import judge_clip
from configs.tiny_wan.recipe.shapes import DEMO_CAPTION, all_scenes, draw_clip, split_scenes
from configs.tiny_wan.recipe.vae import reconstruction_psnr
from engine.components.wan.autoencoder import load_wan_autoencoder
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.support.small_model import ROOT, tiny_config

FOLDER = ROOT / "configs" / "tiny_wan"


def test_held_out_prompts_come_out_right_with_the_shipped_cache() -> None:
    config = tiny_config("sampling.steps=50")
    scenes = split_scenes()[1][:4]
    request = make_request([scene.caption for scene in scenes], "", 0, config.sampling)
    latents = Engine(load_model(config, Ranks()), Progress()).generate(request).latents
    autoencoder = load_wan_autoencoder(config, Ranks())
    clips = [torch.cat(list(autoencoder.decode(sample, CollectiveMeter()))) for sample in latents]
    verdicts = [judge_clip(clip.numpy()) for clip in clips]
    assert all(verdict.agrees(scene) for verdict, scene in zip(verdicts, scenes, strict=True)), verdicts


def test_the_judge_is_right_on_drawn_clips_and_can_say_no() -> None:
    generator = torch.Generator().manual_seed(0)
    scenes = all_scenes()[::23]
    clips = [((draw_clip(scene, generator)[0] + 1) / 2).permute(1, 2, 3, 0).numpy() for scene in scenes]
    for clip, scene in zip(clips, scenes, strict=True):
        assert judge_clip(clip).agrees(scene)
        assert not judge_clip(clip[::-1]).agrees(scene), "played backwards it moves the other way"
        assert judge_clip(np.zeros_like(clip)).direction == "none"


def test_the_autoencoder_reaches_its_bar() -> None:
    vae = AutoencoderKLWan.from_pretrained(FOLDER, subfolder="vae").eval()
    assert reconstruction_psnr(vae, 4, 3) > 30


def test_the_prompt_file_is_the_recipes_held_out_split_and_begins_with_the_demo() -> None:
    prompts = Path(FOLDER / "held_out_prompts.txt").read_text().splitlines()
    assert prompts == [scene.caption for scene in split_scenes()[1]]
    assert prompts[0] == DEMO_CAPTION


def test_it_is_small() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert sum(file.stat().st_size for file in files) < 16_000_000
