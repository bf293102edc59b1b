"""Python imports this in every process whose PYTHONPATH holds this folder, as the tests' shell has it.

LOCKSTEP_STUB_ENGINE has ``engine.engine`` be the stub beside this file; LOCKSTEP_FAULT has ranks fail;
LOCKSTEP_SIMULATED_CUDA is the names of CUDA devices, with commas between them, that torch finds;
LOCKSTEP_HOST_BYTES has weights wait in the memory of a machine of that size.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType


class _StubFinder:
    """Finds the stub where the engine is looked for."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "engine.engine":
            return None
        return spec_from_file_location(name, Path(__file__).with_name("stub_engine.py"))


if os.environ.get("LOCKSTEP_STUB_ENGINE"):
    sys.meta_path.insert(0, _StubFinder)  # type: ignore[arg-type]
if os.environ.get("LOCKSTEP_FAULT"):
    import injected_faults

    injected_faults.install()
if names := os.environ.get("LOCKSTEP_SIMULATED_CUDA"):
    from simulated_cuda import simulate_cuda

    simulate_cuda(names.split(","))
if size := os.environ.get("LOCKSTEP_HOST_BYTES"):
    from host_weights import wait_on_host

    sys.meta_path.insert(0, wait_on_host(float(size)))
