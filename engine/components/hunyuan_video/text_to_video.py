"""The parts of HunyuanVideo text-to-video."""

from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoTransformer3DModel
from transformers import CLIPTextModel, LlamaModel

from engine.components.hunyuan_autoencoder import load_hunyuan_autoencoder
from engine.components.hunyuan_video.prompt_encoder import HunyuanVideoPromptEncoder
from engine.components.parts import Parts
from engine.components.samplers import make_hunyuan_scheduler
from engine.models.hunyuan_video import HunyuanVideoAdapter

PARTS = Parts(
    transformer=HunyuanVideoTransformer3DModel,
    vae=AutoencoderKLHunyuanVideo,
    encoders={"text_encoder": LlamaModel, "text_encoder_2": CLIPTextModel},
    adapter=HunyuanVideoAdapter,
    prompt_encoder=HunyuanVideoPromptEncoder,
    video_decoder=load_hunyuan_autoencoder,
    image_conditioner=None,
    make_scheduler=make_hunyuan_scheduler,
)
