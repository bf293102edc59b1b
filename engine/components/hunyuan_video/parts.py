"""What runs HunyuanVideo text-to-video."""

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from engine.components.dtypes import text_encoder_dtype, transformer_dtype, vae_dtype
from engine.components.files import load_component, on_device
from engine.components.parts import Parts
from engine.config import Config, SamplingConfig
from engine.media.video import to_uint8
from engine.models.hunyuan_video import HunyuanVideoAdapter
from engine.request import GenerationRequest
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks


class HunyuanVideoPromptEncoder:
    """Llama and CLIP with their tokenizers, run exactly as diffusers' pipeline runs them."""

    def __init__(self, config: Config, ranks: Ranks, sharded: bool = False, kind: Any = HunyuanVideoPipeline) -> None:
        """
        Args:
            sharded: never, as the family's ``shards_text_encoder`` says: the encoders lie in the first rank's host
                memory but for the moment of their use.
            kind: the diffusers pipeline that the folder is of.
        """
        self._device = ranks.device
        self._dtype = transformer_dtype(config, ranks.device)
        path = config.model.path
        # the class that the folder names, LlamaTokenizerFast, has cut words as Llama 2 does since transformers 5
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
        :class:`HunyuanVideoAdapter` wants them; guidance is distilled, so ``num_branches`` is 1."""
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


class HunyuanVideoDecoder:
    """The VAE of HunyuanVideo or HunyuanVideo 1.5, on the first rank of a replica alone.

    Strips of rows would not be exact here as they are with Wan: attention sees the whole picture and earlier frames,
    and so do the group norms of 1.0. On CUDA diffusers' tiles bound the memory (a 720p video would not fit without),
    and are blended where they meet; on the CPU pictures are whole. 1.0 decodes frames in pieces of time by itself.
    """

    def __init__(self, config: Config, ranks: Ranks, kind: Any = AutoencoderKLHunyuanVideo) -> None:
        """
        Args:
            kind: the diffusers class of the VAE.
        """
        self._device = ranks.device
        self._vae: Any = None  # on the other ranks
        if ranks.replica_rank == 0:
            self._vae = load_component(
                kind.from_pretrained, config.model.path, subfolder="vae", dtype=vae_dtype(config)
            ).eval()
            if ranks.device.type == "cuda":
                self._vae.enable_tiling()

    @torch.inference_mode()
    def encode(self, video: Tensor) -> Tensor:
        """Encode a video; on the first rank.

        Args:
            video: [1, 3, frames, height, width] in [-1, 1]; it may lie on the CPU.

        Returns:
            The most likely latents, scaled as the transformer expects them: float32 [1, channels, latent frames,
            latent height, latent width] on the rank's device.
        """
        assert self._vae is not None
        with on_device(self._device, self._vae):
            latents: Tensor = self._vae.encode(video.to(self._device, self._vae.dtype)).latent_dist.mode()
        return latents * self._vae.config.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: Tensor, meter: CollectiveMeter) -> Generator[Tensor, None, None]:
        """As :meth:`engine.components.parts.VideoDecoder.decode`; nothing is sent."""
        if self._vae is None:
            return
        with on_device(self._device, self._vae):
            scaled = latents[None].to(self._vae.dtype) / self._vae.config.scaling_factor
            video = self._vae.decode(scaled, return_dict=False)[0][0]
        for frames in video.split(self._vae.config.temporal_compression_ratio, dim=1):
            yield to_uint8(frames).permute(1, 2, 3, 0).contiguous().cpu()


def make_scheduler(
    pretrained: dict[str, Any], sampling: SamplingConfig, device: torch.device
) -> FlowMatchEulerDiscreteScheduler:
    """The sampler of a request, its timesteps set: sigmas fall evenly from 1 before they are shifted."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pretrained, shift=sampling.shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, sampling.steps + 1)[:-1], device=device)
    scheduler.set_begin_index(0)  # else each step searches its timestep and waits for the device
    return scheduler


PARTS = Parts(
    transformer=HunyuanVideoTransformer3DModel,
    adapter=HunyuanVideoAdapter,
    prompt_encoder=HunyuanVideoPromptEncoder,
    video_decoder=HunyuanVideoDecoder,
    image_conditioner=None,
    make_scheduler=make_scheduler,
)
