"""Encodes the images of a request for Wan."""

import torch
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from engine.components.residence import Residence, at_home
from engine.components.wan.autoencoder import WanAutoencoder
from engine.components.wan.clip import ClipImageEncoder
from engine.config import Config
from engine.media.images import fit_last, reread_image
from engine.models.facts import ModelFacts
from engine.request import GenerationRequest
from parallel.broadcast import Named, broadcast_from_first
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks


class WanImageConditioner:
    """The first rank reads the files and runs CLIP, where the model has it; all ranks together run the VAE."""

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        facts: ModelFacts,
        autoencoder: WanAutoencoder,
        residence: Residence | None = None,
    ) -> None:
        self._ranks = ranks
        self._facts = facts
        self._autoencoder = autoencoder
        is_first = ranks.replica_rank == 0
        wanted = is_first and facts.clip_images
        self._clip = ClipImageEncoder(config, ranks, at_home(ranks.device, residence)) if wanted else None

    def encode(self, request: GenerationRequest, meter: CollectiveMeter) -> Named:
        """``first_frame`` or ``latent_condition``, and ``image_embeds`` where the model has CLIP, of
        :meth:`engine.models.wan.WanAdapter.conditions`.

        Raises:
            RankFailure: an image cannot be read, although it could when the request was checked.
        """
        looked = [self._look(request)] if self._ranks.replica_rank == 0 else None
        (images,) = broadcast_from_first(looked, self._ranks, meter)
        return self._encode_frames(request, images.pop("pixels"), meter) | images

    def _look(self, request: GenerationRequest) -> Named:
        """pixels: float32 [images, 3, height, width] in [-1, 1], the images at the size of the video; image_embeds: as
        the adapter takes them, of the images at their own size, where the model has CLIP."""
        assert request.image is not None  # else the caller does not ask
        sampling = request.sampling
        images = [reread_image(request.image, "--image", sampling.background)]
        if request.last_image is not None:
            last = reread_image(request.last_image, "--last-image", sampling.background)
            images.append(fit_last(last, images[0]))
        processor = VideoProcessor(vae_scale_factor=self._facts.vae_scale_spatial)
        pixels = [processor.preprocess(image, sampling.height, sampling.width) for image in images]
        looked = {"pixels": torch.cat(pixels).to(self._ranks.device)}
        if self._clip is not None:
            looked["image_embeds"] = self._clip.encode(images)
        return looked

    def _encode_frames(self, request: GenerationRequest, pixels: Tensor, meter: CollectiveMeter) -> Named:
        """``first_frame`` or ``latent_condition``; collective.

        Args:
            pixels: of the first and perhaps the last frame, [1 or 2, 3, height, width].
        """
        first, *last = pixels.cpu().unsqueeze(2)
        if self._facts.image_input == "first frame":
            return {"first_frame": self._autoencoder.encode(first, meter)[None]}
        frames = request.sampling.frames
        between = first.new_zeros(3, frames - 1 - len(last), *first.shape[2:])
        latents = self._autoencoder.encode(torch.cat([first, between, *last], dim=1), meter)
        mask = mark_given_frames(frames, self._facts.vae_scale_temporal, bool(last)).to(latents.device)
        mask = mask[:, :, None, None].expand(-1, -1, *latents.shape[2:])
        return {"latent_condition": torch.cat([mask, latents])[None]}


def mark_given_frames(frames: int, scale: int, with_last: bool) -> Tensor:
    """The mask of given frames: 1 for the first, and for the last if ``with_last``; 0 for those to be generated.

    Args:
        frames: of the video, scale x n + 1.
        scale: frames that the VAE packs into a latent frame; only the first frame has one of its own.

    Returns:
        float32 [scale, latent frames]: a column has the frames of a latent frame; the first frame fills the first
        column.
    """
    given = torch.zeros(frames)
    given[0] = 1
    if with_last:
        given[-1] = 1
    return torch.cat([given[:1].expand(scale), given[1:]]).view(-1, scale).T
