"""Which attention kernel runs: a pure function of what is wished, what was found, and where it would run.

Known without torch, so that a configuration can be refused before anything is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

KernelName = Literal["sdpa", "cudnn", "flash", "flash3", "sage", "efficient"]
"""sdpa: what torch takes by itself. cudnn: cuDNN's fused attention, through torch. flash: FlashAttention-2, of the
package flash-attn. flash3: FlashAttention-3, whose package is called flash_attn_interface. sage: SageAttention, which
rounds queries and keys to 8 bits. efficient: torch's memory-efficient kernel."""
Wish = Literal["auto", "sdpa", "cudnn", "flash", "flash3", "sage", "efficient"]
Capability = tuple[int, int]

KERNELS: tuple[KernelName, ...] = get_args(KernelName)
_HALF_ONLY = ("cudnn", "flash", "flash3", "sage")  # they know float16 and bfloat16
_NO_LOG_SUM_EXP = ("sage",)  # of its own arithmetic in 8 bits, too coarse to weigh chunks of keys by
_OLDEST: Mapping[KernelName, Capability] = {
    "cudnn": (8, 0),
    "flash": (8, 0),
    "flash3": (9, 0),
    "sage": (8, 0),
    "efficient": (5, 0),
}
_NEWEST: Mapping[KernelName, Capability] = {"flash3": (9, 9)}  # written for Hopper; Blackwell cannot run it


@dataclass(frozen=True)
class Site:
    """Where attention runs."""

    device: str
    """cpu or cuda."""
    dtype: str
    """Of queries, keys and values: float32 or bfloat16."""
    ring: int = 1
    """Ranks that pass keys and values around. A ring needs the log-sum-exp of each chunk."""
    capability: Capability | None = None
    """Compute capability of the card, (9, 0) for an H100; None where no card is known yet."""
    deterministic: bool = False
    """Results must not depend on the layout: torch's own kernel alone is called in the same way in each."""


@dataclass(frozen=True)
class Found:
    """What is wrong with kernels on this machine; what is not named can be used."""

    absent: Mapping[KernelName, str] = field(default_factory=dict)
    """Not installed: a sentence fragment that follows "but"."""
    broken: Mapping[KernelName, str] = field(default_factory=dict)
    """Installed, but it does not work: the same."""

    def but(self, kernel: KernelName, complaint: str) -> Found:
        """The same, and this kernel is broken."""
        return replace(self, broken={**self.broken, kernel: complaint})


@dataclass(frozen=True)
class Choice:
    """The kernel, and a line for the user on each that would have been better and is broken."""

    kernel: KernelName
    notes: tuple[str, ...] = ()


def choose_kernel(wish: Wish, site: Site, found: Found) -> Choice:
    """The kernel that runs. "auto" is the fastest of those that work on this card.

    Raises:
        ValueError: what is wished cannot run there; one sentence.
    """
    if wish != "auto":
        if complaint := complaint_about(wish, site, found):
            raise ValueError(f"runtime.attention is {wish}, but {complaint}.")
        return Choice(wish)
    notes: list[str] = []
    for kernel in _by_speed(site):
        if complaint_about(kernel, site, found) is None:
            return Choice(kernel, tuple(notes))
        if kernel in found.broken:
            notes.append(f"runtime.attention: {kernel} is passed over, since {found.broken[kernel]}")
    return Choice("sdpa", tuple(notes))


def complaint_about(kernel: KernelName, site: Site, found: Found) -> str | None:
    """Why a kernel cannot run there, as a sentence fragment that follows "but"; None if it can."""
    if kernel == "sdpa" and kernel not in found.broken:
        return None
    if site.deterministic:
        return "runtime.deterministic is true, which needs torch's own kernel: use auto or sdpa"
    if site.ring > 1 and kernel in _NO_LOG_SUM_EXP:
        return (
            f"parallel.ring is {site.ring}, and a ring needs a log-sum-exp that it does not give: use parallel.ring=1 "
            "with parallel.ulysses, or another kernel"
        )
    if site.dtype == "float32" and kernel in _HALF_ONLY:
        return "model.dtype is float32, which it cannot take: use model.dtype=bfloat16, or runtime.attention=auto"
    if site.device == "cpu":
        return "it needs a CUDA device, and this run is on the cpu: use auto or sdpa"
    if site.capability is not None and not _runs_on(kernel, site.capability):
        major, minor = site.capability
        return f"it does not run on a card of compute capability {major}.{minor}: use auto"
    if kernel in found.absent:
        return f"{found.absent[kernel]}, or use auto"
    if kernel in found.broken:
        return f"{found.broken[kernel]}: use auto or sdpa"
    return None


def _runs_on(kernel: KernelName, capability: Capability) -> bool:
    return _OLDEST.get(kernel, (0, 0)) <= capability <= _NEWEST.get(kernel, (99, 0))


def _by_speed(site: Site) -> tuple[KernelName, ...]:
    """The kernels that "auto" tries, fastest first; after them comes sdpa.

    flash-attn 2 reaches half of what FlashAttention-3 and cuDNN reach on Hopper (arXiv 2407.08608), so it is not taken
    there. On Ampere and Ada it is the best, and torch's own kernel is an older copy of it.
    """
    match site:
        case Site(device="cpu") | Site(dtype="float32") | Site(deterministic=True) | Site(capability=None):
            return ()
        case Site(capability=(9, _)):
            return "flash3", "cudnn"
        case Site(capability=(10, _)):
            return ("cudnn",)
        case Site(capability=(8, _)):
            return ("flash",)
    return ()
