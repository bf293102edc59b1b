"""Random inputs for a small Wan transformer, and the call of the diffusers module that the adapter takes apart."""

from dataclasses import dataclass, field

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from engine.models.wan import WanAdapter
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.sharding import gather, plan_shards

FRAMES, HEIGHT, WIDTH = 3, 6, 10  # 45 tokens: 2 ranks share them unevenly, and 4 do
TIMESTEP = torch.tensor(731)


@dataclass(frozen=True)
class WanInputs:
    """Latents and two lanes' tensors, under the names that the adapter wants."""

    latents: Tensor
    lanes: list[dict[str, Tensor]] = field(default_factory=list)


def wan_inputs(name: str, transformer: WanTransformer3DModel, seed: int = 1) -> WanInputs:
    """What the pipeline of the published checkpoint ``name`` would feed in; a name that ends in "image" adds an image
    where the checkpoint can do without one."""
    generator = torch.Generator().manual_seed(seed)
    config = transformer.config

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    channels = config.out_channels
    image = {}
    if config.in_channels > channels:
        image["latent_condition"] = noise(1, config.in_channels - channels, FRAMES, HEIGHT, WIDTH)
    if config.image_dim:
        image["image_embeds"] = noise(2 if config.pos_embed_seq_len else 1, 5, config.image_dim)
    if name.endswith("image"):
        image["first_frame"] = noise(1, channels, 1, HEIGHT, WIDTH)
    lanes = [{"prompt_embeds": noise(1, 512, config.text_dim), **image} for _ in range(2)]
    return WanInputs(noise(1, channels, FRAMES, HEIGHT, WIDTH), lanes)


def diffusers_forward(transformer: WanTransformer3DModel, inputs: WanInputs, expand_timesteps: bool) -> list[Tensor]:
    """Each lane's velocity, called as diffusers' WanPipeline and WanImageToVideoPipeline call the module."""
    velocities = []
    for lane in inputs.lanes:
        latents, timestep = inputs.latents, TIMESTEP.expand(1)
        if expand_timesteps:
            mask = torch.ones(1, 1, FRAMES, HEIGHT, WIDTH)
            if "first_frame" in lane:
                mask[:, :, 0] = 0
                latents = (1 - mask) * lane["first_frame"] + mask * latents
            timestep = (mask[0][0][:, ::2, ::2] * TIMESTEP).flatten().unsqueeze(0)
        if "latent_condition" in lane:
            latents = torch.cat([latents, lane["latent_condition"]], dim=1)
        velocities.append(
            transformer(
                hidden_states=latents.to(transformer.dtype),
                timestep=timestep,
                encoder_hidden_states=lane["prompt_embeds"].to(transformer.dtype),
                encoder_hidden_states_image=lane["image_embeds"].to(transformer.dtype)
                if "image_embeds" in lane
                else None,
                return_dict=False,
            )[0]
        )
    return velocities


def composed_forward(adapter: WanAdapter, inputs: WanInputs, ranks: Ranks, probe_blocks: int = 1) -> list[Tensor]:
    """Each lane's velocity from the adapter's pieces, the blocks in two runs as the engine has them run."""
    shape = inputs.latents.shape
    shards = plan_shards(adapter.num_tokens(shape), ranks)
    conditions = adapter.conditions(inputs.lanes, inputs.latents, shards)
    velocities = []
    for activations in adapter.embed(inputs.latents, TIMESTEP, conditions, shards):
        probe = adapter.blocks(activations, 0, probe_blocks)
        tokens = adapter.head(adapter.blocks(probe, probe_blocks, adapter.num_blocks))
        velocities.append(adapter.unpatchify(gather(tokens, shards, ranks, CollectiveMeter()), shape))
    return velocities
