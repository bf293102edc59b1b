"""The limits against which a line falls short, each with its reason. They are meant to tell what is broken from what
works: a machine that is within all of them may still be slow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """A number, and why it is that number.

    cuda: on a GPU. cpu: on the CPU, where ranks share cores with whatever else runs, so that speeds say little.
    """

    cuda: float
    cpu: float
    reason: str

    def on(self, device: str) -> float:
        """The number for "cuda" or "cpu"."""
        return self.cuda if device == "cuda" else self.cpu


PRODUCT_ERROR = Limit(
    1e-5, 1e-5, "float32 sums of a thousand products round at 1e-6; TF32 keeps 10 bits and rounds at 3e-4"
)
LATENTS_ERROR = Limit(1e-3, 1e-3, "float32 on another kind of processor; a wrong kernel gives above 0.1")
LAYOUT_ERROR = Limit(1e-4, 1e-5, "the order of float32 sums is all that a layout changes (CPU); kernels, too (CUDA)")
BFLOAT16_ERROR = Limit(0.15, 0.15, "bfloat16 keeps 8 bits, and the small model amplifies them over twelve steps")
ATTENTION_ERROR = Limit(2e-2, 1e-4, "bfloat16 outputs of size 1 (CUDA), float32 (CPU)")
LOG_SUM_EXP_ERROR = Limit(1e-3, 1e-4, "a ring weighs its chunks by exp of it, so that an error of 1e-3 is one of 0.1%")
KERNEL_SHARE_OF_PEAK = Limit(0.2, 0.02, "published kernels reach 0.5 to 0.75 of a card's matrix products")
STEP_SHARE_OF_PEAK = Limit(0.2, 0.05, "a step of a large model is matrix products and attention")
SKIP_SHARE_OF_STEP = Limit(0.6, 0.9, "a skipped step runs one of four blocks and the cache's sums")
MEMORY_OVER_FORMULA = Limit(1.1, 1.1, "the formulas of engine/cost/memory are within 5% of a trace")
DECODE_FLOAT32_ERROR = Limit(1e-4, 1e-4, "relative; float32 convolutions of 60 layers")
DECODE_BFLOAT16_ERROR = Limit(0.1, 0.1, "relative; bfloat16 keeps 8 bits, and a pixel is shown in 8")
PINNED_GIGABYTES = Limit(8.0, 0.5, "PCIe 4.0 with 8 lanes gives 13 GB/s, a busy CPU's memory more than 0.5")
CARD_RATE_RATIO = Limit(0.8, 0.2, "the slowest card sets the pace of all; CPU ranks share cores")
LINK_GIGABYTES = Limit(5.0, 0.05, "inside a node: PCIe 4.0 gives 20 GB/s, gloo over loopback 0.3 to 3")
NODE_LINK_GIGABYTES = Limit(1.0, 0.02, "between nodes: 10 Gbit/s Ethernet gives 1.2 GB/s")
LINK_MICROSECONDS = Limit(2000.0, 20000.0, "a step has one small collective; NCCL takes 20 to 100 us, gloo 100 to 1000")
LINK_RATIO = Limit(3.0, 8.0, "links of one kind are alike; one much slower than the others has a fault")
HANG_SECONDS = Limit(60, 60, "a step may take 5 s, and two processes of the run then have to end")
GROWN_BYTES = Limit(4e6, 4e6, "what a request needs ends with it; a transformer that stays takes 6 MB")
SYNCHRONISATIONS = Limit(24, 24, "a step has about ten: the agreement, the sampler; each costs tens of microseconds")
