"""Prompts to embeddings for Wan: UMT5."""

import accelerate
import torch
from diffusers import WanImageToVideoPipeline
from diffusers.pipelines.wan.pipeline_wan_i2v import prompt_clean
from torch import Tensor
from transformers import AutoConfig, UMT5EncoderModel

from engine.components.dtypes import text_encoder_dtype
from engine.components.files import load_component, load_module, loading
from engine.components.residence import Residence, at_home
from engine.components.texts import cut_note, texts_of, token_ids, unread_note
from engine.config import Config
from engine.models.harmless import HARMLESS
from engine.models.quantised import MARKER
from engine.models.weights import weight_files
from engine.request import GenerationRequest
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.slices import load_slices
from parallel.weights import ShardedWeights, list_blocks, shard_whole


class WanPromptEncoder:
    """The tokenizer and UMT5, run exactly as diffusers' pipeline runs them."""

    def __init__(self, config: Config, ranks: Ranks, sharded: bool = False, residence: Residence | None = None) -> None:
        """
        Args:
            sharded: shard the weights over the ranks of the replica; then all of them call :meth:`encode`.
        """
        self._device = ranks.device
        self._weights: ShardedWeights | None = None
        path, dtype = config.model.path, text_encoder_dtype(config, ranks.device)
        if sharded:
            encoder, self._weights = load_sharded_encoder(config, ranks)
        else:
            home = at_home(ranks.device, residence)
            encoder = home.load(lambda: load_module(UMT5EncoderModel, path, "text_encoder", dtype))
            self._resident = home.settle(encoder)
        self._pipeline = load_component(
            WanImageToVideoPipeline.from_pretrained,  # accepts every component that a Wan folder may have
            path,
            text_encoder=encoder,
            transformer=None,
            transformer_2=None,
            vae=None,
            image_encoder=None,
            image_processor=None,
            dtype=dtype,
        )

    def encode(self, request: GenerationRequest, num_branches: int, meter: CollectiveMeter) -> list[dict[str, Tensor]]:
        """For each lane, in the order of ``engine.denoise.guidance.all_lanes``: prompt_embeds
        [1, max_sequence_length, text_dim] of the prompt, or of the negative prompt in the uncond lanes."""
        prompts, guided = request.prompts, num_branches == 2
        with self._weights.running(meter) if self._weights else self._resident.on_device():
            cond, uncond = self._pipeline.encode_prompt(
                prompt=list(prompts),
                negative_prompt=[request.negative_prompt] * len(prompts),
                do_classifier_free_guidance=guided,
                max_sequence_length=request.sampling.max_sequence_length,
                device=self._device,
            )
        branches = [cond, uncond] if guided else [cond]
        return [{"prompt_embeds": embeds[i : i + 1]} for i in range(len(prompts)) for embeds in branches]

    def notes(self, request: GenerationRequest, num_branches: int) -> list[str]:
        """As :meth:`engine.components.parts.PromptEncoder.notes`."""
        tokenizer, limit = self._pipeline.tokenizer, request.sampling.max_sequence_length
        said = []
        for name, text in texts_of(request, num_branches):
            read = prompt_clean(text)
            ids = token_ids(tokenizer, read)
            end = int(ids[-1:] == [tokenizer.eos_token_id])
            reader = "UMT5 (sampling.max_sequence_length)"
            said.append(cut_note(name, text, reader, limit, ids, tokenizer.decode, end))
            said.append(unread_note(name, text, tokenizer, read))
        return [line for line in said if line]


def load_sharded_encoder(config: Config, ranks: Ranks) -> tuple[UMT5EncoderModel, ShardedWeights]:
    """The text encoder with only this rank's part of its weights, in the host's memory; no rank holds all of them."""
    path = config.model.path
    with loading("text encoder", path):
        encoder = empty_encoder(path, text_encoder_dtype(config, ranks.device))
        weights = shard_whole(encoder, list_blocks(encoder.encoder), ranks)
        load_slices(
            encoder, weight_files(path, "text_encoder"), torch.device("cpu"), (*HARMLESS["UMT5EncoderModel"], MARKER)
        )
    return encoder.eval(), weights


def empty_encoder(path: str, dtype: torch.dtype) -> UMT5EncoderModel:
    """A text encoder with parameters on the meta device; its two token embeddings, which are tied, are one layer."""
    settings = AutoConfig.from_pretrained(path, subfolder="text_encoder", local_files_only=True)
    with accelerate.init_empty_weights(include_buffers=False):
        encoder = UMT5EncoderModel(settings)
    encoder.set_input_embeddings(encoder.shared)
    for parameter in encoder.parameters():
        parameter.data = parameter.to(dtype)
    return encoder.requires_grad_(False)
