"""Images to CLIP embeddings, for Wan 2.1."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionModel

from engine.components.files import load_component, load_module
from engine.components.residence import Residence
from engine.config import Config
from parallel.ranks import Ranks


class ClipImageEncoder:
    """CLIP's vision model and its image processor, in float32, as Wan 2.1's published examples load it."""

    def __init__(self, config: Config, ranks: Ranks, residence: Residence) -> None:
        self._device = ranks.device
        path = config.model.path
        self._processor = load_component(CLIPImageProcessor.from_pretrained, path, subfolder="image_processor")
        self._encoder = residence.load(lambda: load_module(CLIPVisionModel, path, "image_encoder", torch.float32))
        self._resident = residence.settle(self._encoder)

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """The second last hidden states: float32 [images, CLIP tokens, image_dim]."""
        pixels = self._processor(images=list(images), return_tensors="pt").to(self._device)
        with self._resident.on_device():
            hidden: Tensor = self._encoder(**pixels, output_hidden_states=True).hidden_states[-2]
        return hidden
