"""The autoencoder, 8x smaller in space, 4x in time: trained on crops, its decoder finished on whole clips."""

import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor

from configs.tiny_wan.recipe.loop import (
    SAVE_EVERY_SECONDS,
    learning_rate,
    load_state,
    log,
    pick_device,
    save_state,
    set_learning_rate,
)
from configs.tiny_wan.recipe.shapes import FRAME_SIZE, NUM_FRAMES, draw_clip, pick_scenes, split_scenes

NUM_CROP_FRAMES = 9
CROP_SIZE = 32
CROP_BATCH = 6
LATENT_NOISE = 0.1
LATENT_PENALTY = 1e-4
DECODER_NOISE = 0.2
PATCH_SIZE = 2


def build_vae() -> AutoencoderKLWan:
    """Wan 2.2 style: its residual shortcuts learn several times faster than the 2.1 style at this size."""
    return AutoencoderKLWan(
        base_dim=32,
        decoder_base_dim=32,
        z_dim=16,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        in_channels=3 * PATCH_SIZE**2,
        out_channels=3 * PATCH_SIZE**2,
        patch_size=PATCH_SIZE,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
        latents_mean=[0.0] * 16,
        latents_std=[1.0] * 16,
    )


def decode_unclamped(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """`vae.decode` without its clamp to -1..1, which has no gradient where it matters in training."""
    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    frames = []
    for i in range(latents.shape[2]):
        vae._conv_idx = [0]
        frames.append(
            vae.decoder(hidden[:, :, i : i + 1], feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=i == 0)
        )
    vae.clear_cache()
    return unpatchify(torch.cat(frames, dim=2), PATCH_SIZE)


def draw_crops(num_crops: int, generator: torch.Generator) -> Tensor:
    """[B, 3, 9, 32, 32]: windows about the shape's place, since windows of bare background teach little."""
    crops = []
    for scene in pick_scenes(split_scenes()[0], num_crops, generator):
        frames, centre = draw_clip(scene, generator)
        first = int(torch.randint(NUM_FRAMES - NUM_CROP_FRAMES + 1, (), generator=generator))
        middle = centre[first + NUM_CROP_FRAMES // 2] + 20 * torch.rand(2, generator=generator) - 10
        left, top = (middle - CROP_SIZE / 2).round().long().clamp(0, FRAME_SIZE - CROP_SIZE).tolist()
        window = frames[:, first : first + NUM_CROP_FRAMES]
        crops.append(window[:, :, top : top + CROP_SIZE, left : left + CROP_SIZE])
    return torch.stack(crops)


def reconstruction_loss(decoded: Tensor, frames: Tensor) -> Tensor:
    error = decoded - frames
    return error.abs().mean() + 5 * error.square().mean()


def psnr(decoded: Tensor, frames: Tensor) -> float:
    """dB between clips in -1..1 (peak 2)."""
    return float(10 * torch.log10(4 / (decoded.clamp(-1, 1) - frames).square().mean()))


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKLWan, num_clips: int, seed: int) -> float:
    """Mean PSNR in dB over whole clips of held-out scenes."""
    generator = torch.Generator().manual_seed(seed)
    values = []
    for scene in pick_scenes(split_scenes()[1], num_clips, generator):
        frames = draw_clip(scene, generator)[0][None].to(vae.device)
        latents = vae.encode(frames).latent_dist.mode()
        values.append(psnr(vae.decode(latents).sample, frames))
    return sum(values) / len(values)


def train_vae(state_path: Path, num_steps: int, peak: float = 1.5e-3, seed: int = 0) -> AutoencoderKLWan:
    """Encoder and decoder together on crops, float32."""
    device = pick_device()
    torch.manual_seed(seed)
    vae = build_vae().to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.0)
    first_step = 0
    state = load_state(state_path)
    if state is not None:
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        first_step = state["step"]
    saved_at = time.monotonic()
    for step in range(first_step, num_steps):
        generator = torch.Generator().manual_seed((seed << 32) + step)
        set_learning_rate(optimizer, learning_rate(step, num_steps, peak, num_warmup_steps=200))
        frames = draw_crops(CROP_BATCH, generator).to(device)
        mean = vae.encode(frames).latent_dist.mean
        decoded = decode_unclamped(vae, mean + LATENT_NOISE * torch.randn_like(mean))
        loss = reconstruction_loss(decoded, frames) + LATENT_PENALTY * mean.square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            crop_psnr = psnr(decoded.detach(), frames)
            log.info("vae step %d loss %.4f crop PSNR %.1f dB", step, float(loss.detach()), crop_psnr)
        done = step + 1 == num_steps
        if done or time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
            log.info("vae step %d held-out PSNR %.2f dB", step + 1, reconstruction_psnr(vae, 4, seed=1))
            progress = {"step": step + 1, "optimizer": optimizer.state_dict()}
            save_state(state_path, {**progress, "vae": vae.state_dict()})
            saved_at = time.monotonic()
    set_posterior_width(vae, LATENT_NOISE)
    return vae


@torch.no_grad()
def set_posterior_width(vae: AutoencoderKLWan, std: float) -> None:
    """Makes the encoder's log-variance the constant it was trained with: samples of it decode well."""
    layer, first = vae.quant_conv, vae.config.z_dim
    layer.weight[first:].zero_()
    layer.bias[first:].fill_(2 * math.log(std))


def finish_decoder(
    state_path: Path, vae: AutoencoderKLWan, num_steps: int, peak: float = 5e-4, seed: int = 3
) -> AutoencoderKLWan:
    """Decoder alone on whole clips; noise on the latents makes it forgive what a denoiser leaves.

    The encoder stays as it is: latents that a transformer has learned keep their meaning.
    """
    torch.manual_seed(seed)
    learned = torch.nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})
    optimizer = torch.optim.AdamW(learned.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.0)
    first_step = 0
    state = load_state(state_path)
    if state is not None:
        learned.load_state_dict(state["decoder"])
        optimizer.load_state_dict(state["optimizer"])
        first_step = state["step"]
    std = torch.tensor(vae.config.latents_std, device=vae.device).view(1, -1, 1, 1, 1)
    saved_at = time.monotonic()
    for step in range(first_step, num_steps):
        generator = torch.Generator().manual_seed((seed << 32) + step)
        set_learning_rate(optimizer, learning_rate(step, num_steps, peak, num_warmup_steps=50))
        frames = draw_clip(pick_scenes(split_scenes()[0], 1, generator)[0], generator)[0][None].to(vae.device)
        with torch.no_grad():
            latents = vae.encode(frames).latent_dist.mode()
        noise = float(DECODER_NOISE * torch.rand((), generator=generator))
        decoded = decode_unclamped(vae, latents + noise * std * torch.randn_like(latents))
        loss = reconstruction_loss(decoded, frames)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            clip_psnr = psnr(decoded.detach(), frames)
            log.info("decoder step %d PSNR %.1f dB at noise %.2f", step, clip_psnr, noise)
        if step + 1 == num_steps or time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
            log.info("decoder step %d held-out PSNR %.2f dB", step + 1, reconstruction_psnr(vae, 4, seed=1))
            progress = {"step": step + 1, "optimizer": optimizer.state_dict()}
            save_state(state_path, {**progress, "decoder": learned.state_dict()})
            saved_at = time.monotonic()
    return vae
