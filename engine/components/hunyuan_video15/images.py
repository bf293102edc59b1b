"""Encodes the image of a request for HunyuanVideo 1.5."""

from diffusers.pipelines.hunyuan_video1_5.image_processor import HunyuanVideo15ImageProcessor
from transformers import SiglipImageProcessor, SiglipVisionModel

from engine.components.dtypes import transformer_dtype
from engine.components.files import load_component, load_module
from engine.components.hunyuan_autoencoder import HunyuanAutoencoder
from engine.components.residence import Residence, at_home
from engine.config import Config
from engine.media.images import reread_image
from engine.models.facts import ModelFacts
from engine.request import GenerationRequest
from parallel.broadcast import Named, broadcast_from_first
from parallel.diffusers_private import encode_with_siglip
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks


class HunyuanVideo15ImageConditioner:
    """The first rank reads the file and runs SigLIP and the VAE, which only this rank has."""

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        facts: ModelFacts,
        autoencoder: HunyuanAutoencoder,
        residence: Residence | None = None,
    ) -> None:
        self._ranks = ranks
        self._autoencoder = autoencoder
        if ranks.replica_rank == 0:
            path, dtype = config.model.path, transformer_dtype(config, ranks.device)
            self._processor = HunyuanVideo15ImageProcessor(vae_scale_factor=facts.vae_scale_spatial, do_resize=False)
            self._extractor = load_component(SiglipImageProcessor.from_pretrained, path, subfolder="feature_extractor")
            home = at_home(ranks.device, residence)
            self._siglip = home.load(lambda: load_module(SiglipVisionModel, path, "image_encoder", dtype))
            self._resident = home.settle(self._siglip)

    def encode(self, request: GenerationRequest, meter: CollectiveMeter) -> Named:
        """``image_embeds`` and ``image_latents``, as ``engine.models.hunyuan_video15.HunyuanVideo15Adapter`` takes
        them, of the image at the size of the video: scaled until it covers that, then cropped around the centre.

        Raises:
            RankFailure: the image cannot be read, although it could when the request was checked.
        """
        looked = [self._look(request)] if self._ranks.replica_rank == 0 else None
        (image,) = broadcast_from_first(looked, self._ranks, meter)
        return image

    def _look(self, request: GenerationRequest) -> Named:
        assert request.image is not None  # else the caller does not ask
        height, width, device = request.sampling.height, request.sampling.width, self._ranks.device
        image = reread_image(request.image, "--image", request.sampling.background)
        image = self._processor.resize(image, height, width, resize_mode="crop")
        with self._resident.on_device():
            embeds = encode_with_siglip(self._siglip, self._extractor, image, device)
        pixels = self._processor.preprocess(image, height, width).unsqueeze(2)
        return {"image_embeds": embeds, "image_latents": self._autoencoder.encode(pixels)}
