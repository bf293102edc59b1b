"""What to do where a job does not fit on a card: the nearest setting that does, by the formula of the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from math import inf, prod

from engine.cost.job import Job
from engine.cost.memory import VideoSize, room
from engine.cost.quantised import bytes_per_parameter
from engine.cost.shape import shape_of_model
from parallel.config import ParallelConfig
from parallel.place import Place
from parallel.placement import find_placement

_MOST_RANKS = 64
_LEAST_SHARE = 0.1  # of the pixels that were asked for

Setting = tuple[str, Job]
"""In the words of the configuration, and what it makes of the job."""


def advise(job: Job, card_bytes: float) -> str:
    """One sentence: what the job needs, what a card has, and the nearest setting that fits."""
    frames, height, width = job.video
    needed = f"{job.model.name} needs {_shown(job.needed())} on a card for {frames} frames of {width}x{height}"
    has = (
        f"a card of {_shown(card_bytes)} has {_shown(max(0.0, room(card_bytes)))} for it, as a tenth and 2 GB stay free"
    )
    return f"{needed}, and {has}: {what_fits(job, card_bytes)}."


def what_fits(job: Job, card_bytes: float, at_most: float = inf) -> str:
    """The nearest setting that fits, as an order; in this order of sacrifice: weights shared out, weights in the host's
    memory, quantised weights, more ranks, a smaller video.

    Args:
        at_most: bytes that it may need.
    """
    for words, changed in _settings(job):
        if changed.fits(card_bytes) and changed.needed() <= at_most:
            return f"use {words} ({_shown(changed.needed())})"
    return "use a larger card, or a smaller model"


def _settings(job: Job) -> Iterator[Setting]:
    lighter = [*_shared(job), *_offloaded(job), *_tiled(job)]
    yield from lighter
    quantised = list(_quantised(job))
    yield from quantised
    for words, changed in quantised:
        yield from ((f"{words} and {more}", both) for more, both in [*_shared(changed), *_offloaded(changed)])
    for words, changed in _more_ranks(job):
        yield words, changed
        yield from ((f"{words} and {more}", both) for more, both in [*_shared(changed), *_offloaded(changed)])
    for base_words, base in [("", job), *((f" and {words}", changed) for words, changed in lighter)]:
        yield from ((f"{words}{base_words}", smaller) for words, smaller in _smaller(base))


def _shared(job: Job) -> Iterator[Setting]:
    if job.degrees.replica_size > 1 and not job.shard_weights and job.offload != "blocks":
        yield "parallel.shard_weights=true", replace(job, shard_weights=True)


def _offloaded(job: Job) -> Iterator[Setting]:
    if job.is_sharded:
        return
    if job.offload == "none" and len(job.model.facts.transformers) > 1:
        yield "runtime.offload=experts", replace(job, offload="experts")
    if job.offload != "blocks":
        yield "runtime.offload=blocks", replace(job, offload="blocks")


def _quantised(job: Job) -> Iterator[Setting]:
    parameters = job.model.parameters["transformer"]
    quantised = bytes_per_parameter(shape_of_model(job.model), parameters, "int8", job.block_bytes)
    # sharded weights are not quantised
    if job.weight_bytes > quantised and not job.is_sharded:
        yield "model.quantize=int8", replace(job, weight_bytes=quantised, dequantised_bytes=job.block_bytes)


def _tiled(job: Job) -> Iterator[Setting]:
    if job.vae_tiling is False:
        yield "model.vae_tiling=auto", replace(job, vae_tiling="auto")


def _more_ranks(job: Job) -> Iterator[Setting]:
    """Layouts that ``parallel: auto`` chooses for more ranks a video, on one machine."""
    ranks = 2 * job.degrees.replica_size
    while ranks <= _MOST_RANKS:
        with suppress(ValueError):
            placement = find_placement(
                ParallelConfig(cfg=None),
                Place(ranks),
                num_heads=job.model.facts.num_heads,
                num_tokens=prod(job.model.facts.token_grid(*job.video)),
                guided=job.branches == 2,
            )
            yield f"{ranks} ranks and parallel=auto", replace(job, degrees=placement.degrees)
        ranks *= 2


def _smaller(job: Job) -> Iterator[Setting]:
    """Smaller frames of about the same shape, and as many of them."""
    facts = job.model.facts
    rows, columns = (facts.vae_scale_spatial * patch for patch in facts.patch_size[1:])
    frames, height, width = job.video
    for number in range(height // rows - 1, 0, -1):
        size: VideoSize = (frames, number * rows, max(1, round(width * number * rows / height / columns)) * columns)
        if size[1] * size[2] < _LEAST_SHARE * height * width:
            return
        yield f"sampling.height={size[1]} and sampling.width={size[2]}", replace(job, video=size)


def _shown(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
