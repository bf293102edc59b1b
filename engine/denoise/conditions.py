"""Encodes the prompts and images of a request: the named tensors of each lane, equal on all ranks."""

from collections.abc import Sequence

from engine.execution.loaded import LoadedModel
from engine.request import GenerationRequest
from parallel.agreement import NotFiniteError
from parallel.broadcast import Named, broadcast_from_first
from parallel.meter import CollectiveMeter

_TEXT = "the text encoders, or use a wider dtype with model.text_encoder_dtype"
_ENCODERS = dict.fromkeys(
    ("first_frame", "latent_condition", "image_latents"), "the VAE, or use a wider dtype with model.vae_dtype"
) | {"image_embeds": "the image encoder, or use a wider dtype with model.dtype"}
"""What makes each of the tensors that :func:`encode` names, and what to do; the text encoders make the others."""


def encode(model: LoadedModel, request: GenerationRequest, meter: CollectiveMeter) -> Sequence[Named]:
    """The named tensors of each lane, ordered as ``engine.denoise.guidance.all_lanes``; collective over the replica.

    The first rank encodes the text, or all ranks do where the text encoder's weights are sharded. Names and shapes are
    those that the adapter's ``conditions`` takes.

    Raises:
        RankFailure: an image cannot be read, although it could when the request was checked.
        NotFiniteError: an encoder has put out NaN or infinity; on all ranks alike, since all hold the same tensors.
    """
    lanes = None
    if model.text_encoder is not None:
        lanes = model.text_encoder.encode(request, model.facts.num_branches(request.sampling.guidance), meter)
    received = broadcast_from_first(lanes if model.is_first else None, model.ranks, meter)
    _refuse_not_finite("prompt", received)
    if request.image is None or model.images is None:
        return received
    shared = model.images.encode(request, meter)
    _refuse_not_finite("image", [shared])
    return [lane | shared for lane in received]


def _refuse_not_finite(what: str, encoded: Sequence[Named]) -> None:
    for named in encoded:
        for name, tensor in named.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise NotFiniteError(
                    f"The encoded {what} is not finite ({name}): check the weights of {_ENCODERS.get(name, _TEXT)}."
                )
