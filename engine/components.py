"""The parts of a checkpoint, each loaded where it is used and moved off the device afterwards."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import accelerate
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn

from engine.config import Config
from engine.errors import RankFailure


def transformer_dtype(config: Config, device: torch.device) -> torch.dtype:
    """What the configuration asks for; "auto" is bfloat16 on CUDA and float32 elsewhere."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return named.get(config.model.dtype, torch.bfloat16 if device.type == "cuda" else torch.float32)


def uses_flash(config: Config, device: torch.device) -> bool:
    """Whether attention runs through flash-attn: asked for, or installed and able (CUDA, not float32)."""
    able = device.type == "cuda" and transformer_dtype(config, device) != torch.float32
    wanted = config.runtime.attention
    return able and (wanted == "flash" or (wanted == "auto" and importlib.util.find_spec("flash_attn") is not None))


def load_transformer(config: Config, device: torch.device) -> WanTransformer3DModel:
    """The denoiser, in evaluation mode on ``device``."""
    transformer = _loaded(
        WanTransformer3DModel.from_pretrained,
        config.model.path,
        subfolder="transformer",
        dtype=transformer_dtype(config, device),
    )
    if uses_flash(config, device):
        transformer.set_attention_backend("flash")
    return transformer.to(device).eval()


def load_scheduler_config(config: Config) -> dict[str, Any]:
    """What the checkpoint says about its sampler."""
    return dict(UniPCMultistepScheduler.load_config(config.model.path, subfolder="scheduler"))


@contextmanager
def _on(device: torch.device, module: nn.Module) -> Iterator[None]:
    """Have ``module`` on ``device`` inside the block and on the CPU afterwards."""
    if device.type == "cpu":
        yield
        return
    _, hook = accelerate.cpu_offload_with_hook(module, device)
    try:
        yield
    finally:
        hook.offload()
        hook.remove()


class TextEncoder:
    """Tokenizer and text encoder, run exactly as diffusers' pipeline runs them."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self._device = device
        self._pipeline = _loaded(
            WanPipeline.from_pretrained,
            config.model.path,
            transformer=None,
            vae=None,
            dtype=transformer_dtype(config, device),
        )

    def encode(
        self, prompts: tuple[str, ...], negative_prompt: str, guided: bool, max_sequence_length: int
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings [samples, max_sequence_length, text_dim] of the prompts, and of the negative prompt
        if ``guided``."""
        with _on(self._device, self._pipeline.text_encoder):
            cond, uncond = self._pipeline.encode_prompt(
                prompt=list(prompts),
                negative_prompt=[negative_prompt] * len(prompts),
                do_classifier_free_guidance=guided,
                max_sequence_length=max_sequence_length,
                device=self._device,
            )
        return cond, uncond


class VideoDecoder:
    """The VAE's decoder half."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self._device = device
        self._vae = _loaded(
            AutoencoderKLWan.from_pretrained, config.model.path, subfolder="vae", dtype=torch.float32
        ).eval()

    def decode(self, latents: Tensor) -> Tensor:
        """One sample's latents [channels, frames, height, width] → pixels in [-1, 1],
        [3, 4 (frames − 1) + 1, height, width]."""
        statistics = self._vae.config
        shape = (1, -1, 1, 1, 1)
        mean = torch.tensor(statistics.latents_mean, device=latents.device).view(shape)
        std = torch.tensor(statistics.latents_std, device=latents.device).view(shape)
        with _on(self._device, self._vae):
            # divide by the reciprocal, as diffusers does: a product rounds differently in the last bit
            video: Tensor = self._vae.decode(latents[None].float() / (1.0 / std) + mean, return_dict=False)[0]
        return video[0]


def _loaded(load: Any, path: str, **options: Any) -> Any:
    """Call a ``from_pretrained``, turning what it raises about the files into one sentence."""
    try:
        return load(path, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        part = options.get("subfolder", "text encoder")
        raise RankFailure(f"The {part} of {path} cannot be loaded ({reason}): check the model folder.") from error
