"""What a request's prompts and images become before the first step: the tensors of each lane, alike on all ranks."""

from collections.abc import Sequence

from engine.execution.loaded import LoadedModel
from engine.request import GenerationRequest
from parallel.broadcast import Named, broadcast_from_first
from parallel.meter import CollectiveMeter


def encode(model: LoadedModel, request: GenerationRequest, meter: CollectiveMeter) -> Sequence[Named]:
    """Each lane's tensors, in the order of ``engine.denoise.guidance.all_lanes``; collective over the replica.

    The first rank encodes the text, or all ranks do where its weights are shared out. Names and shapes are those of
    the adapter's ``conditions``.

    Raises:
        RankFailure: an image that was there when the request was checked cannot be read any more.
    """
    lanes = None
    if model.text_encoder is not None:
        lanes = model.text_encoder.encode(request, model.facts.num_branches(request.sampling.guidance), meter)
    received = broadcast_from_first(lanes if model.is_first else None, model.ranks, meter)
    if request.image is None or model.images is None:
        return received
    shared = model.images.encode(request, meter)
    return [lane | shared for lane in received]
