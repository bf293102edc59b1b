"""What torch tells of this machine's cards."""

from __future__ import annotations

_FLOAT8_CAPABILITY = (8, 9)
_OWN_CONTEXT_BYTES = 1e9  # of this process on a card, which :func:`engine.cost.memory.room` leaves free anyhow


def card_bytes(index: int = 0, *, look: bool = True) -> float:
    """Bytes of a CUDA device that a job of this process may have.

    Args:
        look: leave out what other programs hold of it, where that is more than this process's own context can be. It
            makes that context: False for a process that only starts others.
    """
    import torch

    if not look:
        return float(torch.cuda.get_device_properties(index).total_memory)
    free, total = torch.cuda.mem_get_info(index)
    of_others = total - free - torch.cuda.memory_reserved(index)
    return float(total - of_others if of_others > _OWN_CONTEXT_BYTES else total)


def multiplies_float8(index: int = 0) -> bool:
    """Whether this machine has that CUDA device, and torch multiplies float8 on it: sm89 and later."""
    import torch

    if not torch.cuda.is_available() or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(index) >= _FLOAT8_CAPABILITY
