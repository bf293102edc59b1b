"""Prompts to embeddings for HunyuanVideo text-to-video: Llama and CLIP."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import HunyuanVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from torch import Tensor
from transformers import CLIPTextModel, LlamaModel, PreTrainedTokenizerFast

from engine.components.dtypes import text_encoder_dtype, transformer_dtype
from engine.components.files import load_component, load_module
from engine.components.residence import Residence, at_home
from engine.components.texts import cut_note, texts_of, token_ids
from engine.config import Config
from engine.request import GenerationRequest
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks

_CLIP_TOKENS = 77
"""Tokens that CLIP's text model reads, with those that begin and end a text."""


class HunyuanVideoPromptEncoder:
    """Llama and CLIP with their tokenizers, run exactly as diffusers' pipeline runs them."""

    _template: Mapping[str, Any] = DEFAULT_PROMPT_TEMPLATE
    """The pipeline's: ``template`` is put around a prompt, and its first ``crop_start`` tokens are dropped."""

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        sharded: bool = False,
        residence: Residence | None = None,
        kind: Any = HunyuanVideoPipeline,
        reader: Any = LlamaModel,
    ) -> None:
        """
        Args:
            sharded: always False, as the family's ``shards_text_encoder`` is: the first rank keeps the encoders in its
                host's memory, and on its device while they are used.
            kind: the diffusers pipeline class of the model.
            reader: the class of its first text encoder.
        """
        self._device = ranks.device
        self._dtype = transformer_dtype(config, ranks.device)
        path, dtype = config.model.path, text_encoder_dtype(config, ranks.device)
        home = at_home(ranks.device, residence)
        # the class that the folder names, LlamaTokenizerFast, splits words as Llama 2 since transformers 5
        tokenizer = load_component(PreTrainedTokenizerFast.from_pretrained, path, subfolder="tokenizer")
        self._pipeline = load_component(
            kind.from_pretrained,
            path,
            transformer=None,
            vae=None,
            tokenizer=tokenizer,
            text_encoder=home.load(lambda: load_module(reader, path, "text_encoder", dtype)),
            text_encoder_2=home.load(lambda: load_module(CLIPTextModel, path, "text_encoder_2", dtype)),
            dtype=dtype,
        )
        encoders = self._pipeline.text_encoder, self._pipeline.text_encoder_2
        self._resident = home.settle(*encoders)

    def encode(self, request: GenerationRequest, num_branches: int, meter: CollectiveMeter) -> list[dict[str, Tensor]]:
        """For each prompt ``prompt_embeds``, ``prompt_attention_mask``, ``pooled_projections`` and ``guidance``, as
        :class:`HunyuanVideoAdapter` takes them; guidance is distilled, so ``num_branches`` is 1."""
        with self._resident.on_device():
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

    def notes(self, request: GenerationRequest, num_branches: int) -> list[str]:
        """As :meth:`engine.components.parts.PromptEncoder.notes`."""
        llama, clip, limit = self._pipeline.tokenizer, self._pipeline.tokenizer_2, request.sampling.max_sequence_length
        template, crop = self._template["template"], self._template["crop_start"]
        said = []
        for name, text in texts_of(request, num_branches):
            ids = token_ids(llama, template.format(text))[crop:]
            reader = "Llama (sampling.max_sequence_length)"
            said.append(cut_note(name, text, reader, limit, ids, llama.decode))
            said.append(cut_note(name, text, "CLIP", _CLIP_TOKENS, token_ids(clip, text), clip.decode, end=1))
        return [line for line in said if line]

    def _guidance(self, request: GenerationRequest) -> Tensor:
        """[1], multiplied after rounding to the transformer's dtype, as diffusers does."""
        return torch.tensor([request.sampling.guidance], dtype=self._dtype, device=self._device) * 1000.0
