"""Prompts to embeddings for HunyuanVideo 1.5: Qwen2.5-VL and ByT5."""

from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import extract_glyph_texts
from torch import Tensor
from transformers import ByT5Tokenizer, Qwen2_5_VLTextModel, Qwen2Tokenizer, T5EncoderModel

from engine.components.dtypes import text_encoder_dtype
from engine.components.files import load_component, load_module
from engine.components.residence import Residence, at_home
from engine.components.texts import cut_note, texts_of, token_ids
from engine.config import Config
from engine.request import GenerationRequest
from parallel.diffusers_private import BYT5_TOKENS, encode_with_byt5, encode_with_qwen, qwen_tokens
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks


class HunyuanVideo15PromptEncoder:
    """Qwen2.5-VL for the prompt, and ByT5 for the letters of words in quotation marks, with their tokenizers, run
    exactly as diffusers' pipeline runs them."""

    def __init__(self, config: Config, ranks: Ranks, sharded: bool = False, residence: Residence | None = None) -> None:
        """
        Args:
            sharded: always False, as the family's ``shards_text_encoder`` is: the first rank keeps the encoders in its
                host's memory, and on its device while they are used.
        """
        self._device = ranks.device
        path, dtype = config.model.path, text_encoder_dtype(config, ranks.device)
        # one by one: without its VAE diffusers' pipeline cannot be made
        self._tokenizer = load_component(Qwen2Tokenizer.from_pretrained, path, subfolder="tokenizer")
        self._byte_tokenizer = load_component(ByT5Tokenizer.from_pretrained, path, subfolder="tokenizer_2")
        home = at_home(ranks.device, residence)
        self._qwen = home.load(lambda: load_module(Qwen2_5_VLTextModel, path, "text_encoder", dtype))
        self._byt5 = home.load(lambda: load_module(T5EncoderModel, path, "text_encoder_2", dtype))
        self._resident = home.settle(self._qwen, self._byt5)

    def encode(self, request: GenerationRequest, num_branches: int, meter: CollectiveMeter) -> list[dict[str, Tensor]]:
        """For each lane ``prompt_embeds``, ``prompt_embeds_mask``, ``prompt_embeds_2`` and ``prompt_embeds_mask_2``,
        as :class:`HunyuanVideo15Adapter` takes them."""
        texts = [text for prompt in request.prompts for text in (prompt, request.negative_prompt)[:num_branches]]
        with self._resident.on_device():
            # one text at a time, for there may be thousands of tokens in each
            return [self._encode(text, request.sampling.max_sequence_length) for text in texts]

    def notes(self, request: GenerationRequest, num_branches: int) -> list[str]:
        """As :meth:`engine.components.parts.PromptEncoder.notes`."""
        qwen, byt5, limit = self._tokenizer, self._byte_tokenizer, request.sampling.max_sequence_length
        said = []
        for name, text in texts_of(request, num_branches):
            ids = qwen_tokens(qwen, text)
            said.append(cut_note(name, text, "Qwen2.5-VL (sampling.max_sequence_length)", limit, ids, qwen.decode))
            if glyphs := extract_glyph_texts(text):
                reader = "ByT5, which sees what is in quotation marks,"
                said.append(cut_note(name, text, reader, BYT5_TOKENS, token_ids(byt5, glyphs), byt5.decode, end=1))
        return [line for line in said if line]

    def _encode(self, text: str, max_tokens: int) -> dict[str, Tensor]:
        embeds, mask = encode_with_qwen(self._qwen, self._tokenizer, text, self._device, max_tokens)
        glyphs, glyphs_mask = encode_with_byt5(self._byt5, self._byte_tokenizer, text, self._device)
        return {
            "prompt_embeds": embeds,
            "prompt_embeds_mask": mask,
            "prompt_embeds_2": glyphs,
            "prompt_embeds_mask_2": glyphs_mask,
        }
