"""DiCache as published for HunyuanVideo, on a plain diffusers transformer: what the engine is compared with.

Written from the authors' rules for this model and independent of ``dicache/`` and ``engine/``: only the modules come
from diffusers. The text keeps its padding, behind diffusers' mask. One rank, one sample, one branch.

As for Wan (tests/support/oracle.py), with these differences:

- x, y and the probe are the video's stream alone; the text's goes through the blocks beside it and is not cached, so
  that a step that is computed goes on from the probe's text, and a skipped one has no use for it;
- a step whose accumulated change is exactly the threshold is skipped;
- gamma is at most 1.5.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tests.support.oracle import OracleRow, OracleRun


class Prompt(NamedTuple):
    """As ``HunyuanVideoPipeline.encode_prompt`` gives it."""

    embeds: Tensor
    pooled: Tensor
    mask: Tensor


@torch.no_grad()
def run_hunyuan_oracle(
    transformer: Any,
    scheduler: Any,
    latents: Tensor,
    prompt: Prompt,
    guidance: float,
    num_steps: int,
    threshold: float,
    warmup_ratio: float,
    probe_depth: int,
    gamma_max: float = 1.5,
) -> OracleRun:
    """Denoise ``latents`` with published DiCache.

    Args:
        transformer: diffusers ``HunyuanVideoTransformer3DModel``, text-to-video.
        scheduler: diffusers ``FlowMatchEulerDiscreteScheduler``; its timesteps are set here.
        latents: noise, [1, channels, frames, height, width].
        guidance: the scale that is embedded.
        probe_depth: dual-stream blocks in front.
    """
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, num_steps + 1)[:-1])
    dual, single = list(transformer.transformer_blocks), list(transformer.single_transformer_blocks)
    accumulated, previous_probe = 0.0, torch.empty(0)
    residuals: list[Tensor] = []
    probe_residuals: list[Tensor] = []
    rows = []
    for index, timestep in enumerate(scheduler.timesteps):
        x, text, time, mask, rotary = _embed(transformer, latents, timestep, prompt, guidance)
        probe, probe_text = x, text
        for block in dual[:probe_depth]:
            probe, probe_text = block(probe, probe_text, time, mask, rotary)
        action, indicator, gamma = "warmup", None, None
        if index >= int(warmup_ratio * num_steps):
            action = "compute"
            if residuals:
                indicator = _mean(probe - previous_probe) / _mean(previous_probe)
                accumulated += indicator
                if accumulated <= threshold:
                    action = "skip"
                else:
                    accumulated = 0.0
        if action == "skip":
            y = x + residuals[-1]
            if len(residuals) >= 2:
                far = _mean(probe - x - probe_residuals[-2])
                gamma = min(max(far / _mean(probe_residuals[-1] - probe_residuals[-2]), 1.0), gamma_max)
                y = x + residuals[-2] + gamma * (residuals[-1] - residuals[-2])
        else:
            y, text = probe, probe_text
            for block in dual[probe_depth:]:
                y, text = block(y, text, time, mask, rotary)
            for block in single:
                y, text = block(y, text, time, mask, rotary)
            residuals.append(y - x)
            probe_residuals.append(probe - x)
        previous_probe = probe
        velocity = _head(transformer, y, time, latents.shape)
        rows.append(OracleRow(index, "cond", action, indicator, gamma))
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return OracleRun(rows, latents)


def _mean(tensor: Tensor) -> float:
    return tensor.double().abs().mean().item()


def _embed(model: Any, latents: Tensor, timestep: Tensor, prompt: Prompt, guidance: float) -> tuple[Any, ...]:
    """The video's and the text's tokens, the time vector, the mask over both and the rotary positions."""
    time = timestep.expand(1).to(latents.dtype)
    vector, _ = model.time_text_embed(time, prompt.pooled, torch.tensor([1000.0 * guidance]))
    x, text = model.x_embedder(latents), model.context_embedder(prompt.embeds, time, prompt.mask)
    mask = torch.cat([torch.ones(1, x.shape[1], dtype=torch.bool), prompt.mask.bool()], dim=1)
    return x, text, vector, mask[:, None, None], model.rope(latents)


def _head(model: Any, y: Tensor, time: Tensor, shape: torch.Size) -> Tensor:
    """Tokens to a velocity [1, channels, frames, height, width]; each holds a patch of 2 x 2, channels outermost."""
    patches = model.proj_out(model.norm_out(y, time)).reshape(1, shape[2], shape[3] // 2, shape[4] // 2, -1, 2, 2)
    return torch.einsum("nfhwcpq->ncfhpwq", patches).reshape(shape)
