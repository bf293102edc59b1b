"""Bytes of all collectives of a run: what ``totals.collective_bytes_by_kind`` of its report says, by formula.

Left out are the VAEs of HunyuanVideo, and what ``runtime.audit`` compares.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dicache.counting import count_sums
from engine.cost.encode_traffic import NumberBytes, broadcast_bytes
from engine.cost.ran import Ran, scheme_of
from engine.cost.traffic import collective_bytes
from engine.cost.vae_traffic import decode_bytes, encode_bytes
from engine.cost.weight_traffic import text_encoder_units, transformer_units, transformer_weight_bytes
from engine.models.folder import read_json
from engine.models.published import published_names
from parallel.degrees import Degrees

_DEFAULT = NumberBytes()


def run_bytes(ran: Ran, degrees: Degrees, numbers: NumberBytes = _DEFAULT) -> dict[str, int]:
    """By kind, the largest over the ranks of a replica."""
    by_rank = [rank_bytes(ran, degrees, rank, numbers) for rank in range(degrees.replica_size)]
    kinds = sorted({kind for sent in by_rank for kind in sent})
    return {kind: max(sent.get(kind, 0) for sent in by_rank) for kind in kinds}


def rank_bytes(ran: Ran, degrees: Degrees, rank: int = 0, numbers: NumberBytes = _DEFAULT) -> dict[str, int]:
    """Sent by one rank, by kind."""
    if degrees.replica_size == 1:
        return {}
    sums = agreed_sums(ran)
    sent = {"broadcast": broadcast_bytes(ran, degrees, rank, numbers)}
    sent |= collective_bytes(ran.shape, ran.inputs, ran.steps, degrees, rank, block_bytes=numbers.blocks, sums=sums)
    if ran.config.parallel.shard_weights:
        sent["weights"] = _weights(ran, degrees, rank, numbers)
    if ran.shape.kind == "wan":
        sent |= _vae(ran, degrees, rank, numbers)
    return sent


def agreed_sums(ran: Ran) -> tuple[int, ...]:
    """Numbers that gate and estimator bring to each step's agreement, over all lanes."""
    sampling, names = ran.request.sampling, published_names(ran.facts, ran.request)
    steps, blocks, shift = sampling.steps, ran.shape.num_blocks, sampling.shift
    counts = [
        count_sums(ran.config.cache, ran.lanes, steps, blocks, span, ran.actions, names, shift) for span in ran.spans
    ]
    return tuple(count for of_expert in counts for count in of_expert)


def _weights(ran: Ran, degrees: Degrees, rank: int, numbers: NumberBytes) -> int:
    folder, ranks, samples = ran.config.model.path, degrees.replica_size, len(ran.request.prompts)
    signals = {name for _, method in scheme_of(ran).cached for name in method.step_signals}
    sent = 0
    for subfolder, steps in zip(ran.facts.transformers, ran.experts, strict=True):
        units = transformer_units(folder, subfolder, ran.shape.kind, ranks, numbers.blocks)
        sent += transformer_weight_bytes(
            ran.shape,
            units,
            steps,
            degrees,
            rank,
            samples=samples,
            with_image=bool(ran.images and ran.shape.image_dim),
            modulated_input="modulated_input" in signals,
        )
    if ran.facts.family.shards_text_encoder:
        units = text_encoder_units(folder, ranks, numbers.texts)
        branches = len(ran.lanes) // samples  # all prompts are read at once, and so are the negative ones
        sent += branches * (sum(units.blocks) + sum(units.layers.values())) * (ranks - 1)
    return sent


def _vae(ran: Ran, degrees: Degrees, rank: int, numbers: NumberBytes) -> dict[str, int]:
    config = read_json(Path(ran.config.model.path) / "vae" / "config.json")
    sampling = ran.request.sampling
    latents = ran.facts.latents_shape(sampling.frames, sampling.height, sampling.width)
    sent: Counter[str] = Counter()
    for _ in ran.request.prompts:
        sent.update(decode_bytes(config, latents, degrees, rank, numbers.vae))
    if ran.images:
        channels, frames, rows, columns = latents
        given = 1 if ran.facts.image_input == "first frame" else frames
        sent.update(encode_bytes(config, (channels, given, rows, columns), degrees, rank, numbers.vae))
    return dict(sent)
