"""How the program that is planned for runs a model, where the hardware leaves a choice, and how fast that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from launch.planner.cards import Kernel, Precision
from launch.planner.cluster import Cluster
from launch.planner.kernel import kernel_on
from parallel.kernels import Wish


@dataclass(frozen=True)
class Software:
    """Assumptions. The defaults are what Lockstep does today."""

    precision: Precision = "bf16"
    """Of the linear layers of the blocks."""
    kernel: Kernel | Wish = "auto"
    """Of attention: a speed, or Lockstep's ``runtime.attention`` (launch/planner/kernel.py)."""
    fused: bool = False
    """Norms, activations and sums are compiled into few kernels."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the transformer otherwise. float32 runs outside the matrix units, as torch does unless told otherwise."""
    vae: Literal["float32", "bfloat16"] = "float32"
    decode_shared: bool = True
    """Ranks share the decoding, where the model's VAE is one that Lockstep shares."""
    offload: Literal["auto", "none", "experts", "blocks"] = "auto"
    """Lockstep's ``runtime.offload``."""
    streamed_blocks: bool = False
    """Each block's weights come from the host for each forward pass, beside the computation. Lockstep does so with
    ``runtime.offload: blocks``."""
    token_modulation: Literal["float32", "tf32"] | None = None
    """Wan 2.2's own code gives each token a timestep, and computes the blocks' shifts and scales for all tokens on
    every rank, in float32. Lockstep computes one row for all tokens where they share a timestep."""
    encoders_stay: bool | None = None
    """Encoders and VAE stay on the card between videos. None: where they fit beside all else, as in Lockstep."""
    copies_back: bool = False
    """Weights that leave the card are copied back to memory that is not pinned. Lockstep keeps pinned host copies."""


LOCKSTEP = Software()


@dataclass(frozen=True)
class Efficiencies:
    """What is fitted: the first three to published figures (launch/planner/published_fit.py), all to a bench."""

    products: float = 0.668
    """Share of the published dense peak that matrix products of a block reach; 0.81 was measured for one of 8192^3."""
    attention: float = 0.923
    """Of what launch.planner.cards.ATTENTION_SHARES says."""
    elementwise: float = 0.657
    """Memory traffic between the products, of what was counted."""
    decode: float = 1.0
    """Rates of the VAE, of what is assumed; a bench replaces this and what follows, published figures do not."""
    copies: float = 1.0
    """Of copies between card and host."""
    fixed: float = 1.0
    """Factor on the seconds of encoding and writing."""
    launches: float = 1.0
    """Factor on the seconds that launching kernels takes."""


FITTED = Efficiencies()


@dataclass(frozen=True)
class Speeds:
    """Effective rates of one rank, and costs that do not shrink with its share of the work."""

    product_flops: float
    attention_flops: float
    memory_bandwidth: float
    elementwise_passes: float
    """Times that a block reads or writes [tokens, dim] between its products."""
    exchange_passes: float
    """The same, to bring what Ulysses exchanges into order."""
    saturation_tokens: float
    """A matrix product of that many tokens runs at half its rate."""
    block_seconds: float
    """Launching the kernels of one block."""
    overlaps: bool
    """Kernels are launched while earlier ones run, so that launching costs only what it takes longer than they do."""
    step_seconds: float
    """Of each step: scheduler, embedding, head, cache arithmetic's launches."""
    lane_seconds: float
    """The same of each lane of a step."""
    convolution_flops: float
    copy_bandwidth: float  # bytes a second between a card and the host's pageable memory
    host_bandwidth: float  # and its pinned memory
    encode_seconds: float
    write_seconds: float
    """Of a video: writing the file and the report, and what no other stage counts."""
    write_pixel_seconds: float = 6e-9
    """The same of each pixel: conversion and compression on one core of the host."""
    single_flops: float = 1.0
    """Products in float32 (or TF32, where the program allows it)."""
    agreement_seconds: float = 2e-4
    """Of a step's agreement inside a node: a small gather, its copy to the host and back."""
    contention: float = 1.0
    """Factor on the time of all computation where several ranks share a processor."""

    def with_rates(self, rates: Mapping[str, float]) -> Speeds:
        """The same with other values of some fields."""
        return replace(self, **rates)  # type: ignore[arg-type]  # the names are of fields that are numbers


_EAGER_PASSES = {"wan": 124.0, "hunyuan_video": 110.0, "hunyuan_video15": 110.0}
"""Counted on diffusers' blocks on the meta device, with a dispatch mode that adds the bytes of each operation that is
no product and makes a tensor; of operations that change nothing, half."""
_FUSED_PASSES = 32.0
"""Inputs and outputs of four products, attention and two norms, each once."""
_COPY_SHARE = 0.9
"""Of the published memory bandwidth; measured on an H100 and an H200."""
_EXCHANGE_PASSES, _FUSED_EXCHANGE_PASSES = 16.0, 8.0
"""Of [tokens, dim] more where Ulysses exchanges: query, key, value and output are copied before and after."""
_LAUNCHES, _FUSED_LAUNCHES = 80, 25
_LAUNCH_SECONDS = 6e-6
_CONVOLUTION_SHARE = 0.5
_SINGLE_ATTENTION_SHARE = 0.5  # of the float32 peak: torch's memory-efficient kernel
_PAGEABLE = 3.5e9


def find_speeds(cluster: Cluster, software: Software, ranks: int, kind: str, fitted: Efficiencies = FITTED) -> Speeds:
    """What a rank of that cluster reaches.

    Args:
        ranks: that share one video.
        kind: of the transformer's shape.

    Raises:
        InvalidInput: the card lacks the precision, or cannot run the attention kernel.
    """
    card = cluster.card
    single = software.dtype == "float32"
    products = card.fp32_flops if single else card.peak_flops(software.precision)
    attending = _SINGLE_ATTENTION_SHARE * card.fp32_flops
    if not single:
        attending = card.attention_flops(kernel_on(card, software.kernel, ranks))
    convolutions = card.bf16_flops * (0.5 if software.vae == "float32" else 1.0)  # TF32 is half of bf16
    return Speeds(
        product_flops=fitted.products * products,
        attention_flops=fitted.attention * attending,
        memory_bandwidth=_COPY_SHARE * card.memory_bandwidth,
        elementwise_passes=fitted.elementwise * (_FUSED_PASSES if software.fused else _EAGER_PASSES[kind]),
        exchange_passes=_FUSED_EXCHANGE_PASSES if software.fused else _EXCHANGE_PASSES,
        saturation_tokens=256,
        block_seconds=fitted.launches * _LAUNCH_SECONDS * (_FUSED_LAUNCHES if software.fused else _LAUNCHES),
        overlaps=True,
        step_seconds=fitted.launches * 2e-3,
        lane_seconds=fitted.launches * 1e-3,
        convolution_flops=fitted.decode * _CONVOLUTION_SHARE * convolutions,
        copy_bandwidth=fitted.copies * _PAGEABLE,
        host_bandwidth=card.host_bandwidth,
        encode_seconds=fitted.fixed * 0.15,
        write_seconds=fitted.fixed * 0.2,
        single_flops=fitted.products
        * (card.bf16_flops / 2 if software.token_modulation == "tf32" else card.fp32_flops),
    )


def slower(speeds: Speeds, ranks: int) -> Speeds:
    """The speeds where that many ranks share the processor for which contention was measured."""
    if ranks == 1 or speeds.contention == 1.0:
        return speeds
    factor = speeds.contention
    return replace(
        speeds,
        product_flops=speeds.product_flops / factor,
        attention_flops=speeds.attention_flops / factor,
        memory_bandwidth=speeds.memory_bandwidth / factor,
        block_seconds=speeds.block_seconds * factor,
        step_seconds=speeds.step_seconds * factor,
        lane_seconds=speeds.lane_seconds * factor,
        convolution_flops=speeds.convolution_flops / factor,
    )
