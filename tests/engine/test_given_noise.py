"""A request that begins with noise that is given, in the place of its seed's."""

import torch

from engine.denoise.loop import draw_noise
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.ranks import Ranks
from tests.support.small_model import PROMPT, tiny_config


def test_given_noise_takes_the_place_of_the_seeds() -> None:
    config = tiny_config("sampling.steps=3", "sampling.frames=5", "sampling.height=32", "sampling.width=32")
    engine = Engine(load_model(config, Ranks()), Progress())
    of_42 = engine.generate(make_request([PROMPT], "", 42, config.sampling)).latents
    noise = draw_noise(of_42.shape, 42, torch.device("cpu"))
    of_7 = make_request([PROMPT], "", 7, config.sampling)
    assert torch.equal(engine.generate(of_7, noise=noise).latents, of_42)
    assert not torch.equal(engine.generate(of_7).latents, of_42)
