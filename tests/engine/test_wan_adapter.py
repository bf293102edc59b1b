"""The adapter's pieces, put together, are the diffusers module's forward pass, bit for bit, for every Wan."""

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from engine.models.wan import WanAdapter
from parallel.ranks import Ranks
from parallel.sharding import plan_shards
from tests.support.published import WAN_KINDS, random_wan
from tests.support.wan_inputs import TIMESTEP, composed_forward, diffusers_forward, wan_inputs


def loaded(name: str, dtype: torch.dtype, folder: Path) -> WanTransformer3DModel:
    """From files, because only loading keeps some modules in float32."""
    random_wan(name).save_pretrained(folder)
    return WanTransformer3DModel.from_pretrained(folder, dtype=dtype).eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", WAN_KINDS)
def test_the_pieces_are_the_modules_forward(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    transformer = loaded(name, dtype, tmp_path)
    inputs = wan_inputs(name, transformer)
    expected = diffusers_forward(transformer, inputs, expand_timesteps=name.endswith("image"))
    for probe_blocks in (0, 1, 2):
        composed = composed_forward(WanAdapter(transformer), inputs, Ranks(), probe_blocks)
        for velocity, reference in zip(composed, expected, strict=True):
            assert velocity.shape == inputs.latents.shape
            assert torch.equal(velocity, reference)
    assert not torch.equal(*expected), "the lanes' prompts differ, so their velocities must"


@pytest.mark.parametrize(
    ("name", "tensor", "dim"),
    [
        ("Wan2.1-I2V-14B", "latent_condition", 1),
        ("Wan2.1-I2V-14B", "image_embeds", -1),
        ("Wan2.1-FLF2V-14B", "image_embeds", 0),  # the first image for the last
        ("Wan2.2-I2V-A14B", "latent_condition", 1),
        ("Wan2.2-TI2V-5B image", "first_frame", 1),
    ],
)
def test_every_tensor_of_an_image_counts(name: str, tensor: str, dim: int, tmp_path: Path) -> None:
    """Else the comparison above would compare less than it seems to."""
    transformer = loaded(name, torch.float32, tmp_path)
    inputs = wan_inputs(name, transformer)
    before = composed_forward(WanAdapter(transformer), inputs, Ranks())
    for lane in inputs.lanes:
        lane[tensor] = lane[tensor].flip(dim)
    after = composed_forward(WanAdapter(transformer), inputs, Ranks())
    assert (after[0] - before[0]).abs().max() > 1e-2 * before[0].abs().max()


def test_text_to_video_of_the_model_with_a_timestep_per_token_needs_only_one(tmp_path: Path) -> None:
    transformer = loaded("Wan2.2-TI2V-5B", torch.float32, tmp_path)
    inputs = wan_inputs("Wan2.2-TI2V-5B", transformer)
    per_token = diffusers_forward(transformer, inputs, expand_timesteps=True)
    for velocity, reference in zip(composed_forward(WanAdapter(transformer), inputs, Ranks()), per_token, strict=True):
        assert (velocity - reference).abs().max() <= 1e-6 * reference.abs().max()


def test_a_given_first_frame_is_kept_and_its_tokens_hold_no_noise(tmp_path: Path) -> None:
    transformer = loaded("Wan2.2-TI2V-5B image", torch.float32, tmp_path)
    adapter, inputs = WanAdapter(transformer), wan_inputs("Wan2.2-TI2V-5B image", transformer)
    shards = plan_shards(adapter.num_tokens(inputs.latents.shape), Ranks())
    conditions = adapter.conditions(inputs.lanes, inputs.latents, shards)
    entering = adapter.embed(inputs.latents, TIMESTEP, conditions, shards)[0]
    assert entering.modulation.shape == (1, 45, 6, 48)
    of_frame = entering.modulation.reshape(3, 15, -1)
    at_0, at_t = of_frame[0, 0], of_frame[1, 0]
    assert (at_0 - at_t).abs().max() > 0.1
    torch.testing.assert_close(of_frame[0], at_0.expand(15, -1))
    torch.testing.assert_close(of_frame[1:], at_t.expand(2, 15, -1))

    finished = adapter.finish(inputs.latents, conditions[0])
    assert torch.equal(finished[:, :, :1], inputs.lanes[0]["first_frame"])
    assert torch.equal(finished[:, :, 1:], inputs.latents[:, :, 1:])


@pytest.mark.parametrize("name", WAN_KINDS[:-1])
def test_without_a_given_first_frame_the_latents_stay(name: str, tmp_path: Path) -> None:
    transformer = loaded(name, torch.float32, tmp_path)
    adapter, inputs = WanAdapter(transformer), wan_inputs(name, transformer)
    shards = plan_shards(adapter.num_tokens(inputs.latents.shape), Ranks())
    condition = adapter.conditions(inputs.lanes, inputs.latents, shards)[0]
    assert adapter.finish(inputs.latents, condition) is inputs.latents
