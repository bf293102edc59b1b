"""A machine with CUDA devices, as far as a process can tell that computes on none of them.

torch says that they are there and what they are called. Setting one that is not there, and any use of one, is an error.
"""

from types import SimpleNamespace
from typing import Any

import torch

MEMORY_BYTES = 80 * 2**30


def simulate_cuda(names: list[str]) -> None:
    """Have torch find devices of these names, from number 0 on."""
    torch.version.cuda = "12.8"

    def index_of(device: Any = None) -> int:
        index = torch.device(device).index if isinstance(device, str | torch.device) else device
        index = index or 0
        if not 0 <= index < len(names):
            raise RuntimeError(f"CUDA error: invalid device ordinal {index}")
        return index

    def properties(device: Any = None) -> Any:
        name = names[index_of(device)]
        return SimpleNamespace(name=name, gcnArchName=name, total_memory=MEMORY_BYTES, major=9, minor=0)

    current = [0]

    def set_device(device: Any) -> None:
        current[0] = index_of(device)

    def start(*_: Any, **__: Any) -> None:
        raise RuntimeError("No CUDA GPUs are available: this machine's are simulated")

    for name, function in {
        "is_available": lambda: True,
        "device_count": lambda: len(names),
        "current_device": lambda: current[0],
        "get_device_name": lambda device=None: names[index_of(device)],
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": properties,
        "is_bf16_supported": lambda *_, **__: True,
        "set_device": set_device,
        "_lazy_init": start,
    }.items():
        setattr(torch.cuda, name, function)
