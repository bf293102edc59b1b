"""What a request's prompts and images become before the first step: the tensors of each lane, alike on all ranks."""

from collections.abc import Sequence
from typing import cast

import torch
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from engine.components.autoencoder import Autoencoder
from engine.errors import InvalidInput, RankFailure
from engine.images import fit_last, read_image
from engine.loaded import LoadedModel
from engine.request import GenerationRequest
from parallel.broadcast import Named, broadcast_from_first
from parallel.meter import CollectiveMeter


def encode(model: LoadedModel, request: GenerationRequest, meter: CollectiveMeter) -> Sequence[Named]:
    """Each lane's tensors, in the order of ``engine.guidance.all_lanes``; collective over the replica.

    The first rank reads the images and runs CLIP, and encodes the text (with sharded weights all ranks do); all ranks
    together encode the frames that are given. Names and shapes are those of the adapter's ``conditions``.

    Raises:
        RankFailure: an image that was there when the request was checked cannot be read any more.
    """
    lanes = None
    if model.text_encoder is not None:
        lanes = model.text_encoder.encode(request, model.facts.num_branches(request.sampling.guidance), meter)
    made = [*lanes, _look_at_images(model, request)] if lanes is not None and model.is_first else None
    *received, images = broadcast_from_first(made, model.ranks, meter)
    if not images:
        return received
    shared = _encode_frames(model, request, images.pop("pixels"), meter) | images
    return [lane | shared for lane in received]


def _look_at_images(model: LoadedModel, request: GenerationRequest) -> Named:
    """What the first rank makes of the request's images, which all lanes share; nothing if there are none.

    pixels: float32 [images, 3, height, width] in [-1, 1], the pictures at the size of the video; image_embeds: as the
    adapter wants them, of the pictures at their own size, where the model has CLIP.
    """
    if request.image is None:
        return {}
    try:
        images = [read_image(request.image, "--image")]
        if request.last_image is not None:
            images.append(fit_last(read_image(request.last_image, "--last-image"), images[0]))
    except InvalidInput as error:
        raise RankFailure(str(error)) from error
    sampling, device = request.sampling, model.ranks.device
    processor = VideoProcessor(vae_scale_factor=model.facts.vae_scale_spatial)
    pixels = [processor.preprocess(image, sampling.height, sampling.width) for image in images]
    looked = {"pixels": torch.cat(pixels).to(device)}
    if model.image_encoder is not None:
        looked["image_embeds"] = model.image_encoder.encode(images)
    return looked


def _encode_frames(model: LoadedModel, request: GenerationRequest, pixels: Tensor, meter: CollectiveMeter) -> Named:
    """``first_frame`` or ``latent_condition`` of :meth:`engine.models.wan.WanAdapter.conditions`; collective.

    Args:
        pixels: of the first and perhaps the last frame, [1 or 2, 3, height, width].
    """
    first, *last = pixels.cpu().unsqueeze(2)
    autoencoder = cast(Autoencoder, model.autoencoder)  # the check before loading lets only Wan have images
    if model.facts.image_input == "first frame":
        return {"first_frame": autoencoder.encode(first, meter)[None]}
    frames = request.sampling.frames
    between = first.new_zeros(3, frames - 1 - len(last), *first.shape[2:])
    latents = autoencoder.encode(torch.cat([first, between, *last], dim=1), meter)
    mask = mark_given_frames(frames, model.facts.vae_scale_temporal, bool(last)).to(latents.device)
    mask = mask[:, :, None, None].expand(-1, -1, *latents.shape[2:])
    return {"latent_condition": torch.cat([mask, latents])[None]}


def mark_given_frames(frames: int, scale: int, with_last: bool) -> Tensor:
    """Which frames of a video are given: 1 for the first, for the last if ``with_last``, and 0 for those to be made.

    Args:
        frames: of the video, scale x n + 1.
        scale: frames that the VAE packs into a latent frame; only the first frame has one of its own.

    Returns:
        float32 [scale, latent frames]: a column has the frames of a latent frame, and the first frame fills its own.
    """
    given = torch.zeros(frames)
    given[0] = 1
    if with_last:
        given[-1] = 1
    return torch.cat([given[:1].expand(scale), given[1:]]).view(-1, scale).T
