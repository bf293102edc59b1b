"""Settles which attention kernel a rank runs, when it loads: the fastest that is found and gives the right numbers."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from engine.components.dtypes import transformer_dtype
from engine.config import Config
from engine.errors import MachineUnfit
from engine.models.folder import read_json
from engine.progress import Progress
from parallel.diffusers_private import local_kernel
from parallel.fixed_rows import complaint_about_places
from parallel.found_kernels import capability_of, find_kernels
from parallel.kernel_calls import complaint_about_results, kernel_over_ranks
from parallel.kernels import KernelName, Site, choose_kernel
from parallel.ranks import Ranks


def settle_kernel(config: Config, ranks: Ranks, progress: Progress) -> KernelName:
    """The kernel of ``runtime.attention``, tried on this rank's device before any weight is there.

    Args:
        progress: told of a kernel that would be faster and is broken, on the first rank of a replica.

    Raises:
        MachineUnfit: the kernel that is asked for does not work here; one sentence.
    """
    wish, dtype = config.runtime.attention, transformer_dtype(config, ranks.device)
    site = Site(
        ranks.device.type,
        str(dtype).removeprefix("torch."),
        ranks.degrees.ring,
        capability_of(ranks.device),
        config.runtime.deterministic,
    )
    found = find_kernels(ranks.device.type)
    while True:
        try:
            choice = choose_kernel(wish, site, found)
        except ValueError as error:
            raise MachineUnfit(str(error)) from None
        if (complaint := _try(choice.kernel, config, ranks)) is None:
            break
        if choice.kernel == "sdpa":
            raise MachineUnfit(f"Attention cannot run: torch's own is there, but {complaint}.")
        found = found.but(choice.kernel, complaint)
    if ranks.replica_rank == 0:
        for line in choice.notes:
            progress.note(line)
    return choice.kernel


def _try(kernel: KernelName, config: Config, ranks: Ranks) -> str | None:
    """What the kernel gets wrong in the forms in which the blocks call it; None if nothing."""
    device, dtype = ranks.device, transformer_dtype(config, ranks.device)
    transformer = read_json(Path(config.model.path) / "transformer" / "config.json")
    head_dim = int(transformer.get("attention_head_dim", 128))
    alone = local_kernel(kernel)
    complaint = complaint_about_results(lambda *inputs: (alone(*inputs), None), head_dim, device, dtype, False)
    if complaint is None and ranks.sequence_group is not None:
        over_ranks = kernel_over_ranks(kernel, device, dtype)
        complaint = complaint_about_results(over_ranks, head_dim, device, dtype, ranks.degrees.ring > 1)
    return complaint


def check_places(transformer: nn.Module) -> None:
    """Refuse a card whose matrix products would make ``runtime.deterministic`` untrue.

    Raises:
        MachineUnfit: one sentence.
    """
    if complaint := complaint_about_places(transformer):
        raise MachineUnfit(
            f"runtime.deterministic is true, but on this machine {complaint}: use runtime.deterministic=false, or "
            "model.dtype=float32."
        )
