"""The parts of Wan 2.1 and 2.2."""

from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import CLIPVisionModel, UMT5EncoderModel

from engine.components.parts import Parts
from engine.components.wan.autoencoder import load_wan_autoencoder
from engine.components.wan.images import WanImageConditioner
from engine.components.wan.prompt_encoder import WanPromptEncoder
from engine.components.wan.scheduler import make_wan_scheduler
from engine.models.wan import WanAdapter

PARTS = Parts(
    transformer=WanTransformer3DModel,
    vae=AutoencoderKLWan,
    encoders={"text_encoder": UMT5EncoderModel, "image_encoder": CLIPVisionModel},
    adapter=WanAdapter,
    prompt_encoder=WanPromptEncoder,
    video_decoder=load_wan_autoencoder,
    image_conditioner=WanImageConditioner,
    make_scheduler=make_wan_scheduler,
)
