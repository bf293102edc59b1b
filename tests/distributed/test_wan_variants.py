"""Timesteps of their own for the tokens of a rank (Wan 2.2 TI2V 5B)."""

import pytest
import torch
from torch import Tensor

from engine.models.wan import WanAdapter
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from parallel.sharding import plan_shards
from tests.support.gang import Gang
from tests.support.published import random_wan
from tests.support.wan_inputs import TIMESTEP, wan_inputs

NAME = "Wan2.2-TI2V-5B image"


def per_token(ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """This rank's hidden states, modulation and timestep embedding."""
    adapter = WanAdapter(random_wan(NAME))
    inputs = wan_inputs(NAME, adapter.transformer)
    shards = plan_shards(adapter.num_tokens(inputs.latents.shape), ranks)
    entering = adapter.embed(
        inputs.latents, TIMESTEP, adapter.conditions(inputs.lanes, inputs.latents, shards), shards
    )[0]
    return entering.hidden_states, entering.modulation, entering.timestep_embedding


@pytest.mark.parametrize("degrees", [Degrees(ulysses=2), Degrees(ring=4)], ids=str)
def test_a_timestep_per_token_follows_its_token(gang: Gang, degrees: Degrees) -> None:
    """45 tokens divide by neither; a rank holds what belongs to its own tokens and nothing else."""
    pieces = zip(*gang.run(per_token, degrees), strict=True)
    lengths = plan_shards(45, Ranks(degrees)).lengths
    adapter = WanAdapter(random_wan(NAME))
    inputs, shards = wan_inputs(NAME, adapter.transformer), plan_shards(45, Ranks())
    whole = adapter.embed(inputs.latents, TIMESTEP, adapter.conditions(inputs.lanes, inputs.latents, shards), shards)[0]
    for parts, reference in zip(pieces, (whole.hidden_states, whole.modulation, whole.timestep_embedding), strict=True):
        assert [part.shape[1] for part in parts] == list(lengths)
        torch.testing.assert_close(torch.cat(parts, dim=1), reference)
