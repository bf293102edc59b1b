"""The parts of HunyuanVideo 1.5, text-to-video and image-to-video."""

from functools import partial

from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15Transformer3DModel
from transformers import Qwen2_5_VLTextModel, SiglipVisionModel, T5EncoderModel

from engine.components.hunyuan_autoencoder import load_hunyuan_autoencoder
from engine.components.hunyuan_video15.images import HunyuanVideo15ImageConditioner
from engine.components.hunyuan_video15.prompt_encoder import HunyuanVideo15PromptEncoder
from engine.components.parts import Parts
from engine.components.samplers import make_hunyuan_scheduler
from engine.models.hunyuan_video15 import HunyuanVideo15Adapter
from parallel.joint import drop_masks


def _adapt(transformer: HunyuanVideo15Transformer3DModel) -> HunyuanVideo15Adapter:
    drop_masks(transformer)  # attention over ranks, where there is any, takes the place of this afterwards
    return HunyuanVideo15Adapter(transformer)


PARTS = Parts(
    transformer=HunyuanVideo15Transformer3DModel,
    vae=AutoencoderKLHunyuanVideo15,
    encoders={
        "text_encoder": Qwen2_5_VLTextModel,
        "text_encoder_2": T5EncoderModel,
        "image_encoder": SiglipVisionModel,
    },
    adapter=_adapt,
    prompt_encoder=HunyuanVideo15PromptEncoder,
    video_decoder=partial(load_hunyuan_autoencoder, kind=AutoencoderKLHunyuanVideo15),
    image_conditioner=HunyuanVideo15ImageConditioner,
    make_scheduler=make_hunyuan_scheduler,
)
