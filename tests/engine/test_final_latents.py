"""What is not finite must not end as a video: in the last step, in an encoder, in the VAE."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import engine.denoise.predictor
from engine.denoise.conditions import encode
from engine.denoise.guidance import combine
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.agreement import NotFiniteError
from parallel.meter import CollectiveMeter
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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_vae_with_one_nan_leaves_no_video(value: float, tmp_path: Path) -> None:
    """NaN would become 0, a black picture, and infinity white or black: and exit code 0."""
    config = tiny_config("sampling.steps=4")
    model = load_model(config, Ranks())
    name = "decoder.conv_out.bias"
    weights = next(weight for full, weight in model.autoencoder._vae.named_parameters() if full.endswith(name))
    with torch.no_grad():
        weights.view(-1)[0] = value
    with pytest.raises(NotFiniteError, match="decoded frames are not finite"):
        Engine(model, Progress()).generate(
            make_request([PROMPT], "", 0, config.sampling), output=tmp_path / "out.mp4", report=tmp_path / "out.json"
        )
    assert list(tmp_path.iterdir()) == []


NAMES = {
    "prompt_embeds": "model.text_encoder_dtype",
    "pooled_projections": "model.text_encoder_dtype",
    "prompt_embeds_2": "model.text_encoder_dtype",
    "image_embeds": "model.dtype",
    "image_latents": "model.vae_dtype",
    "latent_condition": "model.vae_dtype",
    "first_frame": "model.vae_dtype",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_every_encoded_tensor_is_looked_at(name: str, value: float, tmp_path: Path) -> None:
    """Of the prompt's tensors those of the last lane; of the images', which all lanes share."""
    plain = {"prompt_embeds": torch.zeros(1, 2, 3), "prompt_attention_mask": torch.ones(1, 2, dtype=torch.int64)}
    spoilt = torch.zeros(1, 4)
    spoilt[0, 3] = value
    of_text = "text" in NAMES[name]
    fake = SimpleNamespace(
        ranks=Ranks(),
        is_first=True,
        facts=SimpleNamespace(num_branches=lambda guidance: 2),
        text_encoder=SimpleNamespace(encode=lambda *_: [plain, plain | ({name: spoilt} if of_text else {})]),
        images=SimpleNamespace(encode=lambda *_: {} if of_text else {"image_embeds": torch.zeros(2), name: spoilt}),
    )
    request = make_request([PROMPT], "", 0, tiny_config().sampling, tmp_path / "x.png")
    with pytest.raises(NotFiniteError, match=rf"not finite \({name}\): .*{NAMES[name]}\."):
        encode(fake, request, CollectiveMeter())  # type: ignore[arg-type]
