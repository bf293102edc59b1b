"""DiCache as published, on a plain diffusers Wan transformer: what the engine is compared with.

Written from the formulas and independent of ``dicache/`` and ``engine/``: the embeddings, the head, the loop, the
guidance and the cache are spelled out here; only the transformer's weights, its blocks and its table of rotary
positions come from diffusers. One rank, one sample, every branch decides for itself.

DiCache: Bu et al., arXiv 2508.17356. Per branch, at a step past the warm-up, with y^m the output of the first m
blocks for the input x, and p = y^m - x:

    delta = mean|y^m - y^m_prev| / mean|y^m_prev|, prev being the previous step, computed or skipped
    acc  += delta;   skip if acc < threshold, else acc = 0
    skip:  y = x + r_2 + gamma (r_1 - r_2),  gamma = clip(mean|p - p_2| / mean|p_1 - p_2|, 1, gamma_max)

where r = y - x and p of the last two computed steps carry the numbers 1 and 2. With one computed step y = x + r_1.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class OracleRow(NamedTuple):
    step: int
    branch: str
    action: str
    indicator: float | None
    gamma: float | None


@dataclass
class OracleRun:
    rows: list[OracleRow]
    """By step; within a step cond before uncond."""
    latents: Tensor
    """What the sampler ends with, float32 [1, channels, frames, height, width]."""


@dataclass
class _Branch:
    text: Tensor
    accumulated: float = 0.0
    previous_probe: Tensor | None = None
    computed: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # (r, p), newest last


@torch.no_grad()
def run_oracle(
    transformer: Any,
    scheduler: Any,
    latents: Tensor,
    cond: Tensor,
    uncond: Tensor | None,
    guidance: float,
    num_steps: int,
    threshold: float,
    warmup_ratio: float,
    probe_depth: int,
    gamma_max: float,
) -> OracleRun:
    """Denoise ``latents`` with published DiCache.

    Args:
        transformer: diffusers ``WanTransformer3DModel``, text-to-video.
        scheduler: diffusers scheduler, as configured for the run; its timesteps are set here.
        latents: noise, [1, channels, frames, height, width].
        cond: embedded prompt, [1, text_tokens, text_dim].
        uncond: embedded negative prompt, or None for a run without guidance.
    """
    scheduler.set_timesteps(num_steps, device=latents.device)
    branches = {"cond": _Branch(cond)} | ({} if uncond is None else {"uncond": _Branch(uncond)})
    rows = []
    for index, timestep in enumerate(scheduler.timesteps):
        velocities = {}
        for name, branch in branches.items():
            inputs = latents.to(transformer.dtype)
            x, time, modulation, text, rotary = _embed(transformer, inputs, timestep, branch.text)

            def run(hidden: Tensor, blocks: Any, text=text, modulation=modulation, rotary=rotary) -> Tensor:
                for block in blocks:
                    hidden = block(hidden, text, modulation, rotary)
                return hidden

            probe = run(x, transformer.blocks[:probe_depth])
            p = probe - x
            action, indicator, gamma = "compute", None, None
            if index < int(warmup_ratio * num_steps):
                action = "warmup"
            elif branch.computed:
                previous = branch.previous_probe
                indicator = _mean(probe - previous) / _mean(previous)
                branch.accumulated += indicator
                if branch.accumulated < threshold:
                    action = "skip"
            if action == "skip":
                r_1, p_1 = branch.computed[-1]
                y = x + r_1
                if len(branch.computed) > 1:
                    r_2, p_2 = branch.computed[-2]
                    gamma = min(max(_mean(p - p_2) / _mean(p_1 - p_2), 1.0), gamma_max)
                    y = x + r_2 + gamma * (r_1 - r_2)
            else:
                y = run(probe, transformer.blocks[probe_depth:])
                branch.accumulated = 0.0
                branch.computed.append((y - x, p))
            branch.previous_probe = probe
            velocities[name] = _head(transformer, y, time, inputs.shape)
            rows.append(OracleRow(index, name, action, indicator, gamma))
        velocity = velocities["cond"]
        if "uncond" in velocities:
            velocity = velocities["uncond"] + guidance * (velocity - velocities["uncond"])
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return OracleRun(rows, latents)


def _mean(tensor: Tensor) -> float:
    return tensor.double().abs().mean().item()


def _embed(transformer: Any, latents: Tensor, timestep: Tensor, text: Tensor) -> tuple[Any, ...]:
    """Patches, time vector, per-block modulation, text tokens and rotary positions."""
    patches = transformer.patch_embedding
    x = F.conv3d(latents, patches.weight, patches.bias, stride=patches.stride)
    x = x.flatten(2).transpose(1, 2).contiguous()
    condition = transformer.condition_embedder
    half = transformer.config.freq_dim // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32) / half).to(x.device)
    angles = timestep.float().reshape(1, 1) * frequencies
    sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1)
    first, second = condition.time_embedder.linear_1, condition.time_embedder.linear_2
    time = _linear(second, F.silu(_linear(first, sinusoid.to(first.weight.dtype)))).to(text.dtype)
    modulation = _linear(condition.time_proj, F.silu(time)).unflatten(1, (6, -1))
    first, second = condition.text_embedder.linear_1, condition.text_embedder.linear_2
    text = _linear(second, F.gelu(_linear(first, text), approximate="tanh"))
    return x, time, modulation, text, transformer.rope(latents)


def _head(transformer: Any, y: Tensor, time: Tensor, shape: torch.Size) -> Tensor:
    """Normalise, modulate, project, and put the patches back into [1, channels, frames, height, width]."""
    shift, scale = (transformer.scale_shift_table + time.unsqueeze(1)).unbind(dim=1)
    normed = F.layer_norm(y.float(), y.shape[-1:], eps=transformer.config.eps)
    y = _linear(transformer.proj_out, (normed * (1 + scale) + shift).to(y.dtype))
    patch = transformer.config.patch_size
    frames, height, width = (size // p for size, p in zip(shape[2:], patch, strict=True))
    y = y.reshape(1, frames, height, width, *patch, -1)
    return torch.einsum("nfhwpqrc->ncfphqwr", y).reshape(shape[0], -1, *shape[2:])


def _linear(layer: Any, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias
