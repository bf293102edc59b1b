"""Encodes the prompts and images of a request: the named tensors of each lane, equal on all ranks."""

from collections.abc import Sequence

from engine.execution.loaded import LoadedModel
from engine.request import GenerationRequest
from parallel.broadcast import Named, broadcast_from_first
from parallel.meter import CollectiveMeter


def encode(model: LoadedModel, request: GenerationRequest, meter: CollectiveMeter) -> Sequence[Named]:
    """The named tensors of each lane, ordered as ``engine.denoise.guidance.all_lanes``; collective over the replica.

    The first rank encodes the text, or all ranks do where the text encoder's weights are sharded. Names and shapes are
    those that the adapter's ``conditions`` takes.

    Raises:
        RankFailure: an image cannot be read, although it could when the request was checked.
    """
    lanes = None
    if model.text_encoder is not None:
        lanes = model.text_encoder.encode(request, model.facts.num_branches(request.sampling.guidance), meter)
    received = broadcast_from_first(lanes if model.is_first else None, model.ranks, meter)
    if request.image is None or model.images is None:
        return received
    shared = model.images.encode(request, meter)
    return [lane | shared for lane in received]
