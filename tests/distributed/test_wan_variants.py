"""I2 for every Wan transformer: spread over ranks, the adapter's pieces give what the diffusers module gives alone."""

import pytest
import torch
from torch import Tensor

from engine.models.wan import WanAdapter
from parallel.attention import install_sequence_attention
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.sharding import plan_shards
from tests.distributed.gang import Gang
from tests.engine.published import WAN_KINDS, random_wan
from tests.engine.wan_inputs import TIMESTEP, composed_forward, diffusers_forward, wan_inputs

LAYOUTS = [Degrees(ulysses=2), Degrees(ring=3), Degrees(ulysses=2, ring=2)]


def prepared(ranks: Ranks, name: str) -> WanAdapter:
    transformer = random_wan(name)
    attention = install_sequence_attention(transformer, ranks, flash=False)
    adapter = WanAdapter(transformer)
    inputs = wan_inputs(name, transformer)
    attention.begin(plan_shards(adapter.num_tokens(inputs.latents.shape), ranks), CollectiveMeter())
    return adapter


def velocities(ranks: Ranks, name: str) -> list[Tensor]:
    adapter = prepared(ranks, name)
    return composed_forward(adapter, wan_inputs(name, adapter.transformer), ranks)


@pytest.mark.parametrize("degrees", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", WAN_KINDS)
def test_ranks_give_the_modules_forward(gang: Gang, degrees: Degrees, name: str) -> None:
    alone = random_wan(name)
    expected = diffusers_forward(alone, wan_inputs(name, alone), expand_timesteps=name.endswith("image"))
    for of_rank in gang.run(velocities, degrees, name):
        for velocity, reference in zip(of_rank, expected, strict=True):
            assert (velocity - reference).abs().max() <= 1e-5 * reference.abs().max()


def per_token(ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """This rank's hidden states, modulation and timestep embedding."""
    name = "Wan2.2-TI2V-5B image"
    adapter = prepared(ranks, name)
    inputs = wan_inputs(name, adapter.transformer)
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
    name = "Wan2.2-TI2V-5B image"
    adapter = WanAdapter(random_wan(name))
    inputs, shards = wan_inputs(name, adapter.transformer), plan_shards(45, Ranks())
    whole = adapter.embed(inputs.latents, TIMESTEP, adapter.conditions(inputs.lanes, inputs.latents, shards), shards)[0]
    for parts, reference in zip(pieces, (whole.hidden_states, whole.modulation, whole.timestep_embedding), strict=True):
        assert [part.shape[1] for part in parts] == list(lengths)
        torch.testing.assert_close(torch.cat(parts, dim=1), reference)
