"""Prompts to embeddings for HunyuanVideo text-to-video: Llama and CLIP."""

from typing import Any

import torch
from diffusers import HunyuanVideoPipeline
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from engine.components.dtypes import text_encoder_dtype, transformer_dtype
from engine.components.files import load_component, on_device
from engine.config import Config
from engine.request import GenerationRequest
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks


class HunyuanVideoPromptEncoder:
    """Llama and CLIP with their tokenizers, run exactly as diffusers' pipeline runs them."""

    def __init__(self, config: Config, ranks: Ranks, sharded: bool = False, kind: Any = HunyuanVideoPipeline) -> None:
        """
        Args:
            sharded: always False, as the family's ``shards_text_encoder`` is: the first rank keeps the encoders in its
                host's memory, and on its device while they are used.
            kind: the diffusers pipeline class of the model.
        """
        self._device = ranks.device
        self._dtype = transformer_dtype(config, ranks.device)
        path = config.model.path
        # the class that the folder names, LlamaTokenizerFast, splits words as Llama 2 since transformers 5
        tokenizer = load_component(PreTrainedTokenizerFast.from_pretrained, path, subfolder="tokenizer")
        self._pipeline = load_component(
            kind.from_pretrained,
            path,
            transformer=None,
            vae=None,
            tokenizer=tokenizer,
            dtype=text_encoder_dtype(config, ranks.device),
        )

    def encode(self, request: GenerationRequest, num_branches: int, meter: CollectiveMeter) -> list[dict[str, Tensor]]:
        """For each prompt ``prompt_embeds``, ``prompt_attention_mask``, ``pooled_projections`` and ``guidance``, as
        :class:`HunyuanVideoAdapter` takes them; guidance is distilled, so ``num_branches`` is 1."""
        llama, clip = self._pipeline.text_encoder, self._pipeline.text_encoder_2
        with on_device(self._device, llama), on_device(self._device, clip):
            embeds, pooled, mask = self._pipeline.encode_prompt(
                prompt=list(request.prompts),
                max_sequence_length=request.sampling.max_sequence_length,
                device=self._device,
            )
        guidance = self._guidance(request)
        return [
            {
                "prompt_embeds": embeds[i : i + 1],
                "prompt_attention_mask": mask[i : i + 1],
                "pooled_projections": pooled[i : i + 1],
                "guidance": guidance,
            }
            for i in range(len(request.prompts))
        ]

    def _guidance(self, request: GenerationRequest) -> Tensor:
        """[1], multiplied after rounding to the transformer's dtype, as diffusers does."""
        return torch.tensor([request.sampling.guidance], dtype=self._dtype, device=self._device) * 1000.0
