"""What runs Wan 2.1 and 2.2."""

from diffusers import AutoencoderKLWan, WanTransformer3DModel

from engine.components.autoencoder import load_autoencoder
from engine.components.parts import Parts
from engine.components.text_encoder import TextEncoder
from engine.components.wan_images import WanImageConditioner
from engine.models.wan import WanAdapter
from engine.samplers import make_scheduler

PARTS = Parts(
    transformer=WanTransformer3DModel,
    adapter=WanAdapter,
    prompt_encoder=TextEncoder,
    video_decoder=load_autoencoder,
    image_conditioner=WanImageConditioner,
    make_scheduler=make_scheduler,
    vae=AutoencoderKLWan,
)
