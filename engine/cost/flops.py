"""FLOPs of a transformer, counted as torch.utils.flop_counter counts them: 2 for a multiplication and its addition in
matrix products, convolutions and attention, and none for norms, activations and sums.

The formulas follow diffusers' modules as the adapters in engine/models/ run them. With n tokens of d numbers, f numbers
in the feed-forward, t text tokens:

- projections of self-attention 8 n d², attention over k keys 4 n k d, feed-forward 4 n d f;
- cross-attention of Wan: projections 4 n d² + 4 t d², attention 4 n t d;
- where ranks share a sequence, n is the rank's own; attention runs for the longest share on each, since shares are
  padded for the transfer, with all keys of the sequence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.cost.lanes import LaneInputs, Share, share_of
from engine.cost.shape import TransformerShape
from parallel.degrees import Degrees

Flops = Counter[str]
"""FLOPs by kind of layer.

``attention`` over the sequence, self or joint; ``cross_attention`` of Wan to text and image; ``projections`` to query,
key and value and back; ``feed_forward``; ``modulation``, the shifts, scales and gates from the timestep; ``embedding``
of latents and timestep; ``text``, what is projected or refined before the blocks; ``head``.
"""
_GLYPH_HIDDEN = 2048  # of diffusers' HunyuanVideo15ByT5TextProjection
_REFINER_RATIO = 4  # feed-forward over width in the refiner of a text, whatever the blocks have


@dataclass(frozen=True)
class LaneStep:
    """What one step runs of one lane."""

    blocks: tuple[range, ...]
    head: bool = True

    @property
    def num_blocks(self) -> int:
        """Blocks that run."""
        return sum(map(len, self.blocks))


def computed(shape: TransformerShape) -> LaneStep:
    """A step that runs everything."""
    return LaneStep((range(shape.num_blocks),))


def skipped(shape: TransformerShape, probe_blocks: int, last_blocks: int = 0, *, head: bool = True) -> LaneStep:
    """A step that runs the probe and the last blocks, and estimates those between.

    Args:
        head: False where the estimate is the velocity itself.
    """
    stop = shape.num_blocks
    return LaneStep((range(probe_blocks), range(stop - last_blocks, stop)), head)


def transformer_flops(
    shape: TransformerShape, lane: LaneInputs, degrees: Degrees | None = None, rank: int = 0
) -> dict[str, int]:
    """One forward pass of one lane on one rank, by kind of layer; the text's projection is counted with it.

    Args:
        degrees: of the layout; one rank where left out.
    """
    total = condition_flops(shape, lane)
    total.update(step_flops(shape, [(lane, computed(shape))], degrees, rank))
    return dict(total)


def denoise_flops(
    shape: TransformerShape,
    lanes: Sequence[LaneInputs],
    steps: Iterable[Sequence[LaneStep]],
    degrees: Degrees | None = None,
    rank: int = 0,
    conditioned: int = 1,
) -> dict[str, int]:
    """All denoise steps of a video on one rank, by kind of layer.

    Args:
        lanes: one for each guidance branch of each sample, cond first.
        steps: what each step runs of each lane, in the order of ``lanes``.
        degrees: of the layout; one rank where left out, which computes everything. With cfg 2 a rank has one lane.
        conditioned: how many times the text is projected: once for each expert that runs.
    """
    own = own_lanes(len(lanes), degrees, rank)
    total: Flops = Counter()
    for lane in own:
        for _ in range(conditioned):
            total.update(condition_flops(shape, lanes[lane]))
    known: dict[tuple[LaneStep, ...], Flops] = {}  # steps are alike but for a few
    for step in steps:
        runs = tuple(step[lane] for lane in own)
        if runs not in known:
            known[runs] = step_flops(shape, list(zip((lanes[lane] for lane in own), runs, strict=True)), degrees, rank)
        total.update(known[runs])
    return dict(total)


def own_lanes(lanes: int, degrees: Degrees | None, rank: int) -> range:
    """The numbers of the lanes that a rank computes: all, or with cfg 2 every second one, since the branches of a
    sample follow one another."""
    if degrees is None or degrees.cfg == 1 or lanes == 1:
        return range(lanes)
    return range(rank // degrees.sequence % degrees.cfg, lanes, degrees.cfg)


def step_flops(
    shape: TransformerShape,
    lanes: Sequence[tuple[LaneInputs, LaneStep]],
    degrees: Degrees | None = None,
    rank: int = 0,
) -> Flops:
    """One step of the lanes of one sample on one rank; they share the embedding of the latents."""
    total: Flops = Counter()
    if not lanes:
        return total
    shares = [share_of(shape, lane, degrees, rank) for lane, _ in lanes]
    total.update(_sample_embedding(shape, lanes[0][0], shares[0]))
    for (lane, runs), share in zip(lanes, shares, strict=True):
        total.update(_lane_embedding(shape, lane))
        for blocks in runs.blocks:
            total.update(block_flops(shape, lane, share, blocks))
        if runs.head:
            total.update(head_flops(shape, share))
    return total


def condition_flops(shape: TransformerShape, lane: LaneInputs) -> Flops:
    """What runs once before the steps, on every rank whole: projections of text and image."""
    dim, image = shape.dim, shape.image_dim
    flops = 2 * lane.image * image * (image + dim)
    if shape.kind == "wan":
        flops += 2 * lane.prompt * dim * (shape.text_dim + dim)
    elif shape.kind == "hunyuan_video15":
        flops += 2 * lane.glyphs * _GLYPH_HIDDEN * (shape.glyph_dim + _GLYPH_HIDDEN + dim)
    return Counter(text=flops)


def block_flops(shape: TransformerShape, lane: LaneInputs, share: Share, blocks: range) -> Flops:
    """A range of blocks of one lane on one rank."""
    dim, ffn, n, t = shape.dim, shape.ffn_dim, share.tokens, share.text
    attention = 4 * share.queries * share.keys * dim
    if not shape.joint:
        kinds: Flops = Counter(
            attention=attention,
            cross_attention=4 * n * lane.text * dim,
            projections=12 * n * dim**2 + 4 * lane.text * dim**2,
            feed_forward=4 * n * dim * ffn,
        )
        return _times(kinds, len(blocks))
    # a given first frame has a modulation of its own in the video's norms
    rows = 2 if shape.first_frame_given else 1
    both: Flops = Counter(attention=attention, projections=8 * (n + t) * dim**2, feed_forward=4 * (n + t) * dim * ffn)
    of_two = len(range(blocks.start, min(blocks.stop, shape.blocks)))
    of_one = len(blocks) - of_two
    modulation = 2 * dim**2 * (6 * (rows + 1) * of_two + 3 * rows * of_one)
    return _times(both, len(blocks)) + Counter(modulation=modulation)


def head_flops(shape: TransformerShape, share: Share) -> Flops:
    """The projection to latents, and in HunyuanVideo the norm before it."""
    projection = 2 * share.tokens * shape.dim * shape.out_channels * shape.patch_values
    return Counter(head=projection + (4 * shape.dim**2 if shape.joint else 0))


def _sample_embedding(shape: TransformerShape, lane: LaneInputs, share: Share) -> Flops:
    """Of latents, on every rank whole, and of the timestep where lanes share it."""
    dim = shape.dim
    patches = 2 * lane.tokens * shape.in_channels * shape.patch_values * dim
    time = 0
    if shape.kind == "wan":
        rows = share.tokens if lane.timesteps_differ else 1
        time = rows * (_time_mlp(shape, shape.frequency_dim) + 2 * dim * 6 * dim)
    elif shape.kind == "hunyuan_video15":
        time = _time_mlp(shape, shape.frequency_dim)
    return Counter(embedding=patches + time)


def _lane_embedding(shape: TransformerShape, lane: LaneInputs) -> Flops:
    """HunyuanVideo: of what the lane's timestep is joined with, and of its text, which is refined at every step."""
    if not shape.joint:
        return Counter()
    dim, padded = shape.dim, lane.prompt + lane.padding
    time = 0
    if shape.kind == "hunyuan_video":
        embedded = 1 + shape.first_frame_given + shape.guidance_embedded
        time = embedded * _time_mlp(shape, shape.frequency_dim) + _time_mlp(shape, shape.pooled_dim)
    refined = 4 * dim**2 + 8 * padded * dim**2 + 4 * padded**2 * dim + 4 * padded * dim * _REFINER_RATIO * dim
    text = _time_mlp(shape, shape.frequency_dim) + _time_mlp(shape, shape.text_dim)  # diffusers' pooled projection
    text += 2 * padded * shape.text_dim * dim + shape.refiner_blocks * refined
    return Counter(embedding=time, text=text)


def _time_mlp(shape: TransformerShape, width: int) -> int:
    """Two layers, from ``width`` numbers to the transformer's width and on, of one row."""
    return 2 * shape.dim * (width + shape.dim)


def _times(kinds: Flops, count: int) -> Flops:
    return Counter({kind: count * flops for kind, flops in kinds.items()})
