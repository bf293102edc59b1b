"""The parts of Wan 2.1 and 2.2."""

from diffusers import AutoencoderKLWan, WanTransformer3DModel

from engine.components.parts import Parts
from engine.components.wan.autoencoder import load_wan_autoencoder
from engine.components.wan.images import WanImageConditioner
from engine.components.wan.prompt_encoder import WanPromptEncoder
from engine.components.wan.scheduler import make_wan_scheduler
from engine.models.wan import WanAdapter

PARTS = Parts(
    transformer=WanTransformer3DModel,
    adapter=WanAdapter,
    prompt_encoder=WanPromptEncoder,
    video_decoder=load_wan_autoencoder,
    image_conditioner=WanImageConditioner,
    make_scheduler=make_wan_scheduler,
    vae=AutoencoderKLWan,
)
