"""FLOPs of what comes before and after the denoise steps of a request: texts and images are encoded, videos decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.cost.autoencoders import autoencoder_flops
from engine.cost.encoders import encoder_flops, shape_of_encoder
from engine.cost.ran import Ran, patches_of_image
from engine.models.folder import read_json

_LLAMA_BEFORE, _LLAVA_BEFORE, _QWEN_BEFORE = 95, 103, 108
"""Tokens that diffusers' templates put before a prompt; they are read, and dropped afterwards."""
_IMAGE_OF_LLAVA = 576  # tokens that take the place of the one in the template
_CLIP_TOKENS, _BYT5_TOKENS = 77, 256


def encode_flops(ran: Ran) -> int:
    """All encoders and the VAE's encoder, for one request."""
    by_kind = {"wan": _wan, "hunyuan_video": _hunyuan_video, "hunyuan_video15": _hunyuan_video15}
    return by_kind[ran.shape.kind](ran)


def decode_flops(ran: Ran) -> int:
    """The VAE's decoder, for all videos of a request; all ranks together, without what strips of rows compute twice.
    HunyuanVideo's tiles decode some pixels twice, which counts."""
    tiled = ran.config.model.vae_tiling is not False
    return len(ran.request.prompts) * autoencoder_flops(ran.shape.kind, _config(ran, "vae"), _latents(ran), tiled=tiled)


def _wan(ran: Ran) -> int:
    sampling = ran.request.sampling
    texts = len(ran.lanes) * encoder_flops(shape_of_encoder(_config(ran, "text_encoder")), sampling.max_sequence_length)
    if not ran.images:
        return texts
    clip = ran.images * _image_encoder(ran, 1) if ran.facts.clip_images else 0
    frames = 1 if ran.facts.image_input == "first frame" else None
    return texts + clip + _encoded_image(ran, frames)


def _hunyuan_video(ran: Ran) -> int:
    config, longest = _config(ran, "text_encoder"), ran.request.sampling.max_sequence_length
    clip = encoder_flops(shape_of_encoder(_config(ran, "text_encoder_2")), _CLIP_TOKENS)
    if "text_config" not in config:
        return len(ran.lanes) * (encoder_flops(shape_of_encoder(config), longest + _LLAMA_BEFORE) + clip)
    text, vision = config["text_config"], config["vision_config"]
    tokens = longest + _LLAVA_BEFORE + _IMAGE_OF_LLAVA - 1
    of_text, of_image = shape_of_encoder(text), shape_of_encoder(vision)
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    llava = encoder_flops(of_text, tokens) + 2 * tokens * of_text.dim * text["vocab_size"]  # with scores of all words
    llava += encoder_flops(of_image, patches + 1, patches) + 2 * patches * of_text.dim * (of_image.dim + of_text.dim)
    return len(ran.lanes) * (llava + clip) + _encoded_image(ran, 1)


def _hunyuan_video15(ran: Ran) -> int:
    qwen = shape_of_encoder(_config(ran, "text_encoder"))
    texts = len(ran.lanes) * encoder_flops(qwen, ran.request.sampling.max_sequence_length + _QWEN_BEFORE)
    with_glyphs = sum(lane.glyphs > 0 for lane in ran.inputs)
    texts += with_glyphs * encoder_flops(shape_of_encoder(_config(ran, "text_encoder_2")), _BYT5_TOKENS)
    return texts + (_image_encoder(ran, 0) + _encoded_image(ran, 1) if ran.images else 0)


def _image_encoder(ran: Ran, beside: int) -> int:
    """CLIP or SigLIP, for one image.

    Args:
        beside: tokens that stand for no patch.
    """
    patches = patches_of_image(ran.config.model.path)
    return encoder_flops(shape_of_encoder(_config(ran, "image_encoder")), patches + beside, patches)


def _encoded_image(ran: Ran, frames: int | None) -> int:
    """The VAE's encoder, for that many latent frames, all of the video if None."""
    channels, every, rows, columns = _latents(ran)
    latents = (channels, frames or every, rows, columns)
    return autoencoder_flops(ran.shape.kind, _config(ran, "vae"), latents, "encode", tiled=False)


def _latents(ran: Ran) -> tuple[int, int, int, int]:
    sampling = ran.request.sampling
    return ran.facts.latents_shape(sampling.frames, sampling.height, sampling.width)


def _config(ran: Ran, component: str) -> dict[str, Any]:
    return read_json(Path(ran.config.model.path) / component / "config.json")
