"""What runs Wan 2.1 and 2.2."""

from diffusers import AutoencoderKLWan, WanTransformer3DModel

from engine.components.parts import Parts
from engine.components.samplers import make_scheduler
from engine.components.wan.autoencoder import load_autoencoder
from engine.components.wan.images import WanImageConditioner
from engine.components.wan.text_encoder import TextEncoder
from engine.models.wan import WanAdapter

PARTS = Parts(
    transformer=WanTransformer3DModel,
    adapter=WanAdapter,
    prompt_encoder=TextEncoder,
    video_decoder=load_autoencoder,
    image_conditioner=WanImageConditioner,
    make_scheduler=make_scheduler,
    vae=AutoencoderKLWan,
)
