"""What the caches look at besides the probe: the numbers that go into diffusers' own modules, and patches that fit."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from engine.models.wan import WanAdapter
from parallel.ranks import Ranks
from parallel.sharding import plan_shards
from tests.support.published import random_wan
from tests.support.tiny_hunyuan import KINDS, ask_diffusers, make_adapter, make_inputs, make_transformer, one_rank
from tests.support.wan_inputs import TIMESTEP, diffusers_forward, wan_inputs

T2V = "Wan2.1-T2V-14B"


@pytest.mark.parametrize("kind", [T2V, "Wan2.2-TI2V-5B", *KINDS])
def test_patches_are_laid_out_as_velocities_are(kind: str) -> None:
    if kind in KINDS:
        adapter = make_adapter(make_transformer(kind))
        latents, _ = make_inputs(kind, (3, 6, 10), num_text=3)
    else:
        adapter = WanAdapter(random_wan(kind))
        latents = wan_inputs(kind, adapter.transformer).latents
    tokens = adapter.patchify(latents)
    assert tokens.shape[:2] == (1, adapter.num_tokens(latents.shape))
    assert torch.equal(adapter.unpatchify(tokens, latents.shape), latents)


def watch(module: nn.Module, seen: list[Tensor], number: int = 0) -> None:
    def hook(_: nn.Module, args: tuple[object, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(output[number] if isinstance(output, tuple) else output)

    module.register_forward_hook(hook)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_wans_timestep_as_teacache_sees_it(dtype: torch.dtype, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """TeaCache's ``e`` is what the embedder gives in float32, before it is rounded for the head; ``e0`` is what the
    blocks are given."""
    random_wan(T2V).save_pretrained(tmp_path)  # only loading keeps some modules in float32
    transformer = WanTransformer3DModel.from_pretrained(tmp_path, dtype=dtype).eval().requires_grad_(False)
    inputs = wan_inputs(T2V, transformer)
    embedded: list[Tensor] = []
    modulations: list[Tensor] = []
    watch(transformer.condition_embedder.time_embedder, embedded)
    watch(transformer.condition_embedder.time_proj, modulations)
    diffusers_forward(transformer, inputs, expand_timesteps=False)
    adapter = WanAdapter(transformer)
    shards = plan_shards(adapter.num_tokens(inputs.latents.shape), Ranks())
    conditions = adapter.conditions(inputs.lanes, inputs.latents, shards)
    (lane, *_) = adapter.embed(inputs.latents, TIMESTEP, conditions, shards)
    embedding, modulation = (adapter.signal(lane, name) for name in ("timestep_embedding", "timestep_modulation"))
    dim = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    assert embedding.shape == (1, 1, dim) and modulation.shape == (1, 1, 6 * dim)
    assert embedding.dtype == torch.float32 and torch.equal(embedding.flatten(), embedded[0].flatten())
    assert torch.equal(modulation.flatten(), modulations[0].flatten())


@pytest.mark.parametrize("kind", KINDS)
def test_hunyuans_modulated_input_is_that_of_block_0(kind: str) -> None:
    transformer = make_transformer(kind)
    latents, lane = make_inputs(kind, (3, 6, 10), num_text=3)
    seen: list[Tensor] = []
    watch(transformer.transformer_blocks[0].norm1, seen)
    ask_diffusers(kind, transformer, latents, torch.tensor(737.0), lane)
    adapter = make_adapter(transformer)
    shards = one_rank(adapter, latents)
    with torch.no_grad():
        (activations,) = adapter.embed(
            latents, torch.tensor(737.0), adapter.conditions([lane], latents, shards), shards
        )
        signal = adapter.signal(activations, "modulated_input")
    assert signal.shape == activations.hidden_states.shape
    torch.testing.assert_close(signal, seen[0], rtol=1e-5, atol=1e-5)
