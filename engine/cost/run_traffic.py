"""Bytes of all collectives of a run: what ``totals.collective_bytes_by_kind`` of its report says, by formula.

A Wan VAE works in strips of rows, and with ``model.vae_tiling=true`` in tiles; ``auto`` counts as strips, as on a card
that is large enough. Left out is what ``runtime.audit`` compares.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dicache.counting import count_sums
from engine.cost.encode_traffic import NumberBytes, broadcast_bytes
from engine.cost.ran import Ran, scheme_of
from engine.cost.tile_traffic import decoded_tile_bytes, encoded_tile_bytes
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
    of_vae = _vae(ran, degrees, rank, numbers)
    return {kind: sent.get(kind, 0) + of_vae.get(kind, 0) for kind in sent | of_vae}


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


def _vae(ran: Ran, degrees: Degrees, rank: int, numbers: NumberBytes) -> Counter[str]:
    kind, tiling = ran.shape.kind, ran.config.model.vae_tiling
    config = read_json(Path(ran.config.model.path) / "vae" / "config.json")
    sampling = ran.request.sampling
    latents = ran.facts.latents_shape(sampling.frames, sampling.height, sampling.width)
    sent: Counter[str] = Counter()
    for _ in ran.request.prompts:
        if kind == "wan" and tiling is not True:
            sent.update(decode_bytes(config, latents, degrees, rank, numbers.vae))
        else:
            tiled = tiling is not False
            sent.update(decoded_tile_bytes(kind, config, latents, degrees, rank, numbers.vae, tiled=tiled))
    if ran.images and kind == "wan":
        channels, frames, rows, columns = latents
        given = (channels, 1 if ran.facts.image_input == "first frame" else frames, rows, columns)
        encode = encoded_tile_bytes if tiling is True else encode_bytes
        sent.update(encode(config, given, degrees, rank, numbers.vae))
    return sent
