"""The parts of HunyuanVideo image-to-video, of both published kinds: those of text-to-video, except for the prompt
encoder, which also sees the image, the image conditioner and the latents that denoising starts from."""

from dataclasses import replace

import torch
from diffusers import HunyuanVideoImageToVideoPipeline, HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import DEFAULT_PROMPT_TEMPLATE
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, LlavaForConditionalGeneration

from engine.components.files import load_component
from engine.components.hunyuan_autoencoder import HunyuanAutoencoder
from engine.components.hunyuan_video import text_to_video
from engine.components.hunyuan_video.prompt_encoder import HunyuanVideoPromptEncoder
from engine.components.residence import Residence
from engine.config import Config
from engine.media.images import reread_image
from engine.models.facts import ModelFacts
from engine.request import GenerationRequest
from parallel.broadcast import Named, broadcast_from_first
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks

# of Llava's 576 image tokens the transformer gets every second or fourth, as in diffusers' pipeline
_IMAGE_TOKEN_STRIDE = {"latent_concat": 2, "token_replace": 4}
_NOISE_SHARE = 0.999


class HunyuanVideoImagePromptEncoder(HunyuanVideoPromptEncoder):
    """Llava, which reads the prompt and the image, and CLIP's text model, run as diffusers' pipeline runs them."""

    _template = DEFAULT_PROMPT_TEMPLATE

    def __init__(self, config: Config, ranks: Ranks, sharded: bool = False, residence: Residence | None = None) -> None:
        kind, reader = HunyuanVideoImageToVideoPipeline, LlavaForConditionalGeneration
        super().__init__(config, ranks, sharded, residence, kind, reader)
        load = HunyuanVideoTransformer3DModel.load_config
        settings = load_component(load, config.model.path, subfolder="transformer")
        self._stride = _IMAGE_TOKEN_STRIDE[settings["image_condition_type"]]

    def encode(self, request: GenerationRequest, num_branches: int, meter: CollectiveMeter) -> list[dict[str, Tensor]]:
        """For each lane ``prompt_embeds``, ``prompt_attention_mask``, ``pooled_projections`` and ``guidance``, as
        :class:`HunyuanVideoAdapter` takes them: image tokens come before those of the text.

        Raises:
            RankFailure: the image cannot be read, although it could when the request was checked.
        """
        assert request.image is not None  # as the check before loading made sure
        image = reread_image(request.image, "--image", request.sampling.background)
        uncond: list[dict[str, Tensor]] = []
        with self._resident.on_device():
            conds = [self._read(request, prompt, image, self._stride) for prompt in request.prompts]
            if num_branches == 2:
                black = Image.new("RGB", (request.sampling.width, request.sampling.height))
                # of the black image the pipeline always keeps every second token
                uncond = [self._read(request, request.negative_prompt, black, _IMAGE_TOKEN_STRIDE["latent_concat"])]
        return [lane for cond in conds for lane in (cond, *uncond)]

    def _read(self, request: GenerationRequest, prompt: str, image: Image.Image, stride: int) -> dict[str, Tensor]:
        """The tensors of one prompt; the pipeline takes an image with one prompt only."""
        embeds, pooled, mask = self._pipeline.encode_prompt(
            image=image,
            prompt=prompt,
            max_sequence_length=request.sampling.max_sequence_length,
            image_embed_interleave=stride,
            device=self._device,
        )
        return {
            "prompt_embeds": embeds,
            "prompt_attention_mask": mask,
            "pooled_projections": pooled,
            "guidance": self._guidance(request),
        }


class HunyuanVideoImageConditioner:
    """The first rank, which has the VAE, encodes the first frame."""

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        facts: ModelFacts,
        autoencoder: HunyuanAutoencoder,
        residence: Residence | None = None,
    ) -> None:
        self._ranks = ranks
        self._processor = VideoProcessor(vae_scale_factor=facts.vae_scale_spatial)
        self._autoencoder = autoencoder

    def encode(self, request: GenerationRequest, meter: CollectiveMeter) -> Named:
        """``image_latents`` [1, channels, 1, height, width], float32.

        Raises:
            RankFailure: the image cannot be read, although it could when the request was checked.
        """
        encoded = [self._encode(request)] if self._ranks.replica_rank == 0 else None
        (image,) = broadcast_from_first(encoded, self._ranks, meter)
        return image

    def _encode(self, request: GenerationRequest) -> Named:
        assert request.image is not None  # else the caller does not ask
        sampling = request.sampling
        image = reread_image(request.image, "--image", sampling.background)
        pixels = self._processor.preprocess(image, sampling.height, sampling.width)
        return {"image_latents": self._autoencoder.encode(pixels.unsqueeze(2))}


def mix_in_image(noise: Tensor, encoded: Named) -> Tensor:
    """Mix a thousandth of the image into the noise of every frame, as HunyuanVideo-I2V's own --i2v-stability does.

    Args:
        noise: [1, channels, frames, height, width].
        encoded: with ``image_latents``.
    """
    share = torch.tensor(_NOISE_SHARE, device=noise.device)  # float32 here, as in diffusers, for the same bits
    return noise * share + encoded["image_latents"] * (1 - share)


PARTS = replace(
    text_to_video.PARTS,
    encoders={"text_encoder": LlavaForConditionalGeneration, "text_encoder_2": CLIPTextModel},
    prompt_encoder=HunyuanVideoImagePromptEncoder,
    image_conditioner=HunyuanVideoImageConditioner,
    make_start=mix_in_image,
)
