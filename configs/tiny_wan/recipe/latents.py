"""Encoded clips: per-channel statistics of the latents and the pool that the transformer learns from."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from configs.tiny_wan.recipe.loop import load_state, save_state
from configs.tiny_wan.recipe.shapes import draw_batch, pick_scenes, split_scenes

NUM_STATISTICS_CLIPS = 360
NUM_FIRST_CLIPS = 2400
NUM_CLIPS_LIMIT = 8000
NUM_CLIPS_PER_REFRESH = 8
REFRESH_EVERY_STEPS = 12
ENCODE_BATCH = 8


@torch.no_grad()
def encode_clips(vae: AutoencoderKLWan, frames: Tensor) -> Tensor:
    """Latents [B, 16, 5, 8, 8] as the encoder gives them, float32 on the CPU."""
    parts = [vae.encode(part.to(vae.device)).latent_dist.mode() for part in frames.split(ENCODE_BATCH)]
    return torch.cat(parts).float().cpu()


def set_latent_statistics(vae: AutoencoderKLWan, seed: int) -> None:
    """Writes per-channel mean and standard deviation into the config, where the pipeline looks for them."""
    generator = torch.Generator().manual_seed(seed)
    scenes = pick_scenes(split_scenes()[0], NUM_STATISTICS_CLIPS, generator)
    latents = encode_clips(vae, draw_batch(scenes, generator))
    vae.register_to_config(
        latents_mean=[round(v, 5) for v in latents.mean((0, 2, 3, 4)).tolist()],
        latents_std=[round(v, 5) for v in latents.std((0, 2, 3, 4)).tolist()],
    )


def channel_statistics(vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)


class LatentPool:
    """Normalised latents and captions of clips drawn from the training scenes; fresh clips keep coming in."""

    def __init__(self, vae: AutoencoderKLWan, seed: int) -> None:
        self.vae = vae
        self.seed = seed
        self.latents: list[Tensor] = []
        self.captions: list[str] = []

    def __len__(self) -> int:
        return len(self.latents)

    def add(self, num_clips: int, generator: torch.Generator) -> None:
        """Draws and encodes clips; beyond the limit the oldest go."""
        mean, std = channel_statistics(self.vae)
        scenes = pick_scenes(split_scenes()[0], num_clips, generator)
        latents = (encode_clips(self.vae, draw_batch(scenes, generator)) - mean) / std
        self.latents = [*self.latents, *latents.unbind()][-NUM_CLIPS_LIMIT:]
        self.captions = [*self.captions, *(scene.caption for scene in scenes)][-NUM_CLIPS_LIMIT:]

    def fill(self, path: Path) -> None:
        """The first clips, from `path` when they were encoded before."""
        state = load_state(path)
        if state is not None:
            self.latents, self.captions = list(state["latents"].float().unbind()), state["captions"]
            return
        generator = torch.Generator().manual_seed(self.seed)
        while len(self) < NUM_FIRST_CLIPS:
            self.add(ENCODE_BATCH, generator)
        save_state(path, {"latents": torch.stack(self.latents).half(), "captions": self.captions})

    def refresh(self, step: int) -> None:
        if step % REFRESH_EVERY_STEPS == 0:
            self.add(NUM_CLIPS_PER_REFRESH, torch.Generator().manual_seed((self.seed << 48) + step))

    def batch(self, num_clips: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        chosen = torch.randint(len(self), (num_clips,), generator=generator).tolist()
        return torch.stack([self.latents[i] for i in chosen]), [self.captions[i] for i in chosen]
