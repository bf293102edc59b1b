"""What is not finite must not end as a video: in the last step, in an encoder, in the VAE."""

import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import engine.denoise.predictor
from engine.denoise.guidance import combine
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.agreement import NotFiniteError
from parallel.ranks import Ranks
from tests.support.small_model import PROMPT, tiny_config


def test_values_that_overflow_in_the_last_step_are_an_error() -> None:
    config = tiny_config("sampling.steps=4")
    steps = iter(range(4))

    def overflow(*args: Any) -> Tensor:
        velocity = combine(*args)
        return velocity if next(steps) < 3 else torch.full_like(velocity, math.inf)

    engine_ = Engine(load_model(config, Ranks()), Progress())
    with (
        mock.patch.object(engine.denoise.predictor, "combine", overflow),
        pytest.raises(NotFiniteError, match="final latents"),
    ):
        engine_.generate(make_request([PROMPT], "", 0, config.sampling))


def test_a_prompt_that_is_encoded_to_nan_is_an_error() -> None:
    config = tiny_config("sampling.steps=4")
    model = load_model(config, Ranks())
    assert model.text_encoder is not None
    spoilt = model.text_encoder.encode

    def encode(*args: Any) -> Any:
        lanes = spoilt(*args)
        lanes[-1]["prompt_embeds"][0, 0, 0] = math.nan
        return lanes

    with (
        mock.patch.object(model.text_encoder, "encode", encode),
        pytest.raises(NotFiniteError, match="encoded prompt is not finite"),
    ):
        Engine(model, Progress()).generate(make_request([PROMPT], "", 0, config.sampling))


def test_a_vae_with_one_nan_leaves_no_video(tmp_path: Path) -> None:
    """NaN would become 0: a black picture, and exit code 0."""
    config = tiny_config("sampling.steps=4")
    model = load_model(config, Ranks())
    weights = next(weight for name, weight in model.autoencoder._vae.named_parameters() if "decoder.conv_out" in name)
    with torch.no_grad():
        weights.view(-1)[0] = math.nan
    with pytest.raises(NotFiniteError, match="decoded frames are not finite"):
        Engine(model, Progress()).generate(
            make_request([PROMPT], "", 0, config.sampling), output=tmp_path / "out.mp4", report=tmp_path / "out.json"
        )
    assert list(tmp_path.iterdir()) == []
