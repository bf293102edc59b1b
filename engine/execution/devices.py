"""The devices of the ranks of a replica, compared before anything is loaded."""

import torch

from parallel.broadcast import objects_of_all
from parallel.ranks import Ranks


def mixed_devices_note(ranks: Ranks) -> str | None:
    """A line where the ranks of a replica have GPUs of different models; collective over the replica.

    Each rank samples on its own card from velocities that are equal on all of them, so latents that kernels of another
    architecture round differently drift apart, and only an audit sees it. Cards that differ in their names alone, such
    as with and without NVLink, run the same kernels: their memory and clocks differ.

    Returns:
        On every rank; None where they are alike, and on the CPU.
    """
    if ranks.device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(ranks.device)
    found = objects_of_all((torch.cuda.get_device_name(ranks.device), f"{major}.{minor}"), ranks)
    names = list(dict.fromkeys(name for name, _ in found))
    if len(names) == 1:
        return None
    places = {
        name: ", ".join(str(ranks.first_in_replica + i) for i, (own, _) in enumerate(found) if own == name)
        for name in names
    }
    where = ", ".join(f"{name} on rank {numbers}" for name, numbers in places.items())
    line = f"the GPUs of a video differ ({where}): the slowest sets the pace"
    if len({capability for _, capability in found}) == 1:
        return line
    return f"{line}, and their latents may drift apart by rounding: runtime.audit=true ends the run where they do"
