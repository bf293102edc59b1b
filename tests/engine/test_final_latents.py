"""A run whose last step overflows must not end as a video."""

import math
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
