"""Prompts to embeddings."""

import torch
from diffusers import WanPipeline
from torch import Tensor

from engine.components.files import load_component, on_device
from engine.components.transformer import transformer_dtype
from engine.config import Config


class TextEncoder:
    """Tokenizer and text encoder, run exactly as diffusers' pipeline runs them."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self._device = device
        self._pipeline = load_component(
            WanPipeline.from_pretrained,
            config.model.path,
            transformer=None,
            vae=None,
            dtype=transformer_dtype(config, device),
        )

    def encode(
        self, prompts: tuple[str, ...], negative_prompt: str, guided: bool, max_sequence_length: int
    ) -> list[dict[str, Tensor]]:
        """For each lane, in the order of ``engine.guidance.all_lanes``: prompt_embeds
        [1, max_sequence_length, text_dim] of the prompt, or of the negative prompt in the uncond lanes."""
        with on_device(self._device, self._pipeline.text_encoder):
            cond, uncond = self._pipeline.encode_prompt(
                prompt=list(prompts),
                negative_prompt=[negative_prompt] * len(prompts),
                do_classifier_free_guidance=guided,
                max_sequence_length=max_sequence_length,
                device=self._device,
            )
        branches = [cond, uncond] if guided else [cond]
        return [{"prompt_embeds": embeds[i : i + 1]} for i in range(len(prompts)) for embeds in branches]
