"""What a lane brings to the transformer, and how much of it one rank holds."""

from __future__ import annotations

from dataclasses import dataclass

from engine.cost.shape import TransformerShape
from parallel.degrees import Degrees
from parallel.lengths import split_evenly, split_text

WAN_TEXT = 512  # tokens to which diffusers' Wan pipelines pad a text
CLIP_IMAGE = 257  # tokens of CLIP's embedding of one image
SIGLIP_IMAGE = 729  # tokens of SigLIP's embedding, in HunyuanVideo 1.5


@dataclass(frozen=True)
class LaneInputs:
    """The lengths of one guidance branch of one video; all are whole sequences, in tokens."""

    tokens: int
    """Of the video."""
    prompt: int
    """Of the prompt as the first text encoder gives it. Wan: with its padding. HunyuanVideo: those that are text or
    image; 1.5: those that are text."""
    padding: int = 0
    """HunyuanVideo: what pads the prompt while it is refined, before the blocks."""
    image: int = 0
    """Of the image encoder: CLIP's (Wan 2.1) or SigLIP's (HunyuanVideo 1.5)."""
    glyphs: int = 0
    """HunyuanVideo 1.5: of ByT5, without padding."""
    timesteps_differ: bool = False
    """Wan 2.2 TI2V with a given first frame: tokens have timesteps of their own."""

    @property
    def text(self) -> int:
        """All tokens that the blocks see beside those of the video."""
        return self.prompt + self.image + self.glyphs


@dataclass(frozen=True)
class Share:
    """What one rank holds of a lane's sequences, in tokens."""

    tokens: int
    """Of the video."""
    text: int
    """Of a joint text, with the row of zeros of a rank that has none; Wan: all of it, on every rank."""
    queries: int
    """For which attention runs with all heads: where ranks share a sequence, the longest share."""
    keys: int
    """Of the whole sequence."""


def share_of(shape: TransformerShape, lane: LaneInputs, degrees: Degrees | None = None, rank: int = 0) -> Share:
    """What a rank holds.

    Args:
        degrees: of the layout; one rank where left out.
        rank: any rank of the layout.
    """
    ranks = degrees.sequence if degrees else 1
    rank %= ranks
    video = split_evenly(lane.tokens, ranks)
    if not shape.joint:
        queries = max(video) if ranks > 1 else lane.tokens
        return Share(video[rank], lane.text, queries, lane.tokens)
    text = split_text(lane.text, ranks)
    longest = max(v + t for v, t in zip(video, text, strict=True))
    return Share(video[rank], max(1, text[rank]), longest, lane.tokens + lane.text)


def lane_inputs(
    shape: TransformerShape,
    tokens: int,
    *,
    prompt: int,
    max_text: int = WAN_TEXT,
    images: int = 0,
    glyphs: int = 0,
) -> LaneInputs:
    """The lengths of a lane, from what is known of a request.

    Args:
        tokens: of the video, all frames.
        prompt: tokens of the text, without padding; the longest that counts is ``max_text``. With HunyuanVideo's
            image-to-video the image's tokens, which Llava puts before the text, belong to it.
        max_text: ``sampling.max_sequence_length``, to which Wan and HunyuanVideo pad.
        images: given: the first, or the first and the last.
        glyphs: tokens of the words in quotation marks, HunyuanVideo 1.5 alone.
    """
    if shape.kind == "wan":
        image = CLIP_IMAGE * images if shape.image_dim else 0
        by_token = images > 0 and not shape.image_dim and shape.in_channels == shape.out_channels
        return LaneInputs(tokens, max_text, image=image, timesteps_differ=by_token)
    text = min(prompt, max_text)
    if shape.kind == "hunyuan_video":
        return LaneInputs(tokens, text, padding=max_text - text)
    return LaneInputs(tokens, text, image=SIGLIP_IMAGE * images, glyphs=glyphs)
