"""Which attention kernel the engine takes on a card, and how fast the planner takes that to be."""

from __future__ import annotations

from typing import cast, get_args

from engine.errors import InvalidInput
from launch.planner.cards import Card, Kernel
from parallel.kernels import Found, KernelName, Site, Wish, choose_kernel

PACKAGES: tuple[KernelName, ...] = ("flash", "flash3", "sage")
"""Kernels that torch does not bring; a plan takes none of them to be installed unless it is told so."""
_LIKE: dict[KernelName, Kernel] = {
    "cudnn": "cudnn",
    "flash": "flash2",
    "flash3": "best",
    "sage": "fp8",  # its scores are in 8 bits
    "efficient": "flash2",
}
_TORCH_TAKES_CUDNN = (9, 10)
"""Of compute capability 9.x and 10.x: there torch's own choice is cuDNN's kernel."""


def kernel_on(card: Card, wish: Kernel | Wish, ranks: int) -> Kernel:
    """The kernel by the speed of which attention is planned.

    Args:
        wish: ``runtime.attention``, whose auto is what the engine chooses where torch alone is installed; or a speed.
        ranks: that share one video.

    Raises:
        InvalidInput: the kernel of that name does not run on the card.
    """
    speeds: dict[str, Kernel] = {name: name for name in get_args(Kernel)}
    if wish in speeds:
        return speeds[wish]
    found = Found(absent=dict.fromkeys(PACKAGES, "it is not installed")) if wish == "auto" else Found()
    site = Site("cuda", "bfloat16", capability=card.capability)
    try:
        name = choose_kernel(cast(Wish, wish), site, found).kernel
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    if name != "sdpa":
        return _LIKE[name]
    major = card.capability[0] if card.capability else 0
    # over ranks the log-sum-exp is needed, which torch's FlashAttention-2 returns
    return "cudnn" if ranks == 1 and major in _TORCH_TAKES_CUDNN else "flash2"
