"""Accelerators that a plan can be made for: published figures, each with its source. Dense arithmetic, no sparsity.

Measured by hand: a bf16 product of 8192^3 reached 798 TFLOP/s on an H100 (81% of the published peak), 790 on an H200;
copying reached 3.0 TB/s (90%) and 4.3 TB/s (90%). The other cards are taken to reach the same shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engine.errors import InvalidInput
from parallel.kernels import Capability

Precision = Literal["bf16", "fp8", "fp4"]
Kernel = Literal["flash2", "cudnn", "best", "fp8"]

_T = 1e12
_G = 1e9


@dataclass(frozen=True)
class Card:
    """One accelerator; rates are a second, and dense."""

    name: str
    generation: str
    bf16_flops: float
    fp8_flops: float | None
    fp4_flops: float | None
    fp32_flops: float  # outside the matrix units, or in them where they have float32
    memory_bytes: float
    memory_bandwidth: float  # bytes
    inside: str  # link to the others of its node, a name of launch.planner.links
    host_bandwidth: float  # bytes to or from pinned memory, while all cards of the node copy
    source: str
    capability: Capability | None = None
    """By which the engine chooses a kernel. None of AMD's cards, on which it finds that torch's own alone works."""

    def peak_flops(self, precision: Precision) -> float:
        """Of matrix products.

        Raises:
            InvalidInput: the card has no such arithmetic.
        """
        peak = {"bf16": self.bf16_flops, "fp8": self.fp8_flops, "fp4": self.fp4_flops}[precision]
        if peak is None:
            have = [name for name, rate in (("bf16", 1), ("fp8", self.fp8_flops), ("fp4", self.fp4_flops)) if rate]
            raise InvalidInput(
                f"--precision is {precision}, which the {self.name} has no matrix arithmetic for: use one of "
                f"{', '.join(have)}."
            )
        return peak

    def attention_flops(self, kernel: Kernel) -> float:
        """FLOPs of attention that a kernel reaches on long sequences with heads of 128 numbers."""
        shares = ATTENTION_SHARES[self.generation]
        if kernel == "fp8" and self.fp8_flops and "fp8" in shares:
            return shares["fp8"] * self.fp8_flops
        return shares[kernel if kernel != "fp8" else "best"] * self.bf16_flops


ATTENTION_SHARES: Mapping[str, Mapping[str, float]] = {
    # Of the bf16 peak; for fp8 of the fp8 peak. Where no source is named, the number is assumed, from the nearest card.
    # FlashAttention-2 on an A100: 50 to 73% (arXiv 2307.08691, abstract)
    "ampere": {"flash2": 0.65, "cudnn": 0.65, "best": 0.65},
    "ada": {"flash2": 0.80, "cudnn": 0.80, "best": 0.80, "fp8": 0.65},
    # FlashAttention-2 on an H100: 35% (arXiv 2407.08608, abstract). 3 in bf16: 621 TFLOP/s at 16k tokens with 128
    # numbers a head (pytorch/benchmark, commit ff65cb67); somewhat more on the longer sequences of a video. In fp8
    # close to 1,200 with 256 numbers a head (the same abstract). cuDNN: 595 at 16k tokens where 3 reached 648 (its
    # figure of the forward pass without a mask, 128 numbers a head)
    "hopper": {"flash2": 0.36, "cudnn": 0.60, "best": 0.655, "fp8": 0.51},
    # FlashAttention-4 on a B200: up to 1,613 TFLOP/s, 71%, and up to 1.3 times cuDNN 9.13 (arXiv 2603.05451, abstract).
    # 2 does not use the new matrix instructions
    "blackwell": {"flash2": 0.22, "cudnn": 0.51, "best": 0.66, "fp8": 0.44},
    # twice the exponentials of a B200 ("attention performance" in NVIDIA's table of HGX B300), which limit attention
    "blackwell ultra": {"flash2": 0.22, "cudnn": 0.58, "best": 0.75, "fp8": 0.54},
    "blackwell rtx": {"flash2": 0.80, "cudnn": 0.80, "best": 0.80, "fp8": 0.65},
    "cdna3": {"flash2": 0.33, "cudnn": 0.33, "best": 0.42, "fp8": 0.35},
    "cdna4": {"flash2": 0.33, "cudnn": 0.33, "best": 0.52, "fp8": 0.46},
}

_NVIDIA = "https://www.nvidia.com/en-us/data-center"
_CARDS = (
    Card(
        "A100", "ampere", 312 * _T, None, None, 19.5 * _T, 80 * _G, 2.039 * _T, "nvlink-3", 12 * _G,
        f"{_NVIDIA}/a100/ (SXM 80GB)", (8, 0),
    ),
    Card(
        "H100", "hopper", 989.5 * _T, 1979 * _T, None, 67 * _T, 80 * _G, 3.35 * _T, "nvlink-4", 25 * _G,
        f"{_NVIDIA}/h100/ (SXM; with sparsity twice as many FLOPs)", (9, 0),
    ),
    Card(
        "H200", "hopper", 989.5 * _T, 1979 * _T, None, 67 * _T, 141 * _G, 4.8 * _T, "nvlink-4", 25 * _G,
        f"{_NVIDIA}/h200/ (SXM)", (9, 0),
    ),
    Card(
        "H20", "hopper", 148 * _T, 296 * _T, None, 44 * _T, 96 * _G, 4.0 * _T, "nvlink-4", 25 * _G,
        "NVIDIA H20, as vendors of servers quote its data sheet", (9, 0),
    ),
    Card(
        "B200", "blackwell", 2250 * _T, 4500 * _T, 9000 * _T, 75 * _T, 180 * _G, 8.0 * _T, "nvlink-5", 25 * _G,
        f"{_NVIDIA}/hgx/ (a share of 8 of HGX B200; 36 PFLOPS of bf16 with sparsity)", (10, 0),
    ),
    Card(
        "GB200", "blackwell", 2500 * _T, 5000 * _T, 10000 * _T, 80 * _T, 186 * _G, 8.0 * _T, "nvlink-5", 50 * _G,
        f"{_NVIDIA}/gb200-nvl72/ (a share of 72; NVLink joins all 72)", (10, 0),
    ),
    Card(
        "B300", "blackwell ultra", 2250 * _T, 4500 * _T, 13500 * _T, 75 * _T, 288 * _G, 8.0 * _T, "nvlink-5", 25 * _G,
        f"{_NVIDIA}/hgx/ (a share of 8 of HGX B300; 108 PFLOPS of dense fp4)", (10, 3),
    ),
    Card(
        "GB300", "blackwell ultra", 2500 * _T, 5000 * _T, 15000 * _T, 80 * _T, 288 * _G, 8.0 * _T, "nvlink-5", 50 * _G,
        f"{_NVIDIA}/gb300-nvl72/ (a share of 72; NVLink joins all 72)", (10, 3),
    ),
    Card(
        "MI300X", "cdna3", 1307.4 * _T, 2614.9 * _T, None, 163.4 * _T, 192 * _G, 5.3 * _T, "xgmi-3", 25 * _G,
        "https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html",
    ),
    Card(
        "MI355X", "cdna4", 2516.6 * _T, 5033.2 * _T, 10066 * _T, 157.3 * _T, 288 * _G, 8.0 * _T, "xgmi-4", 25 * _G,
        "https://www.amd.com/en/products/accelerators/instinct/mi350/mi355x.html",
    ),
    Card(
        "L40S", "ada", 362 * _T, 733 * _T, None, 91.6 * _T, 48 * _G, 0.864 * _T, "pcie-4", 12 * _G,
        f"{_NVIDIA}/l40s/ (366 and 733 with the boost clock of the data sheet)", (8, 9),
    ),
    Card(
        "RTX4090", "ada", 165.2 * _T, 330.3 * _T, None, 82.6 * _T, 24 * _G, 1.008 * _T, "pcie-4", 12 * _G,
        "NVIDIA Ada GPU Architecture, V2.01, table 2 (fp32 accumulation)", (8, 9),
    ),
    Card(
        "RTX5090", "blackwell rtx", 209.5 * _T, 419 * _T, 1676 * _T, 104.8 * _T, 32 * _G, 1.792 * _T, "pcie-5", 25 * _G,
        "NVIDIA RTX Blackwell GPU Architecture, V1.1, table 3 (fp32 accumulation)", (12, 0),
    ),
)  # fmt: skip
CARDS: Mapping[str, Card] = {card.name.lower(): card for card in _CARDS}
CPU = "cpu"
"""A device without published rates: a plan for it needs measurements (launch/planner/calibration.py)."""


def find_card(name: str) -> Card:
    """The card of that name, in any case, with or without spaces.

    Raises:
        InvalidInput: the table has none; the sentence lists those that it has.
    """
    key = name.lower().replace(" ", "").replace("-", "").removesuffix("sxm")
    if key not in CARDS:
        known = ", ".join(card.name for card in _CARDS)
        raise InvalidInput(f"--cluster names a GPU {name!r}, which is not known: use one of {known}, or cpu.")
    return CARDS[key]
