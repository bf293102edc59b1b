"""Whether a configuration and this machine go with ``runtime.compile``."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

from engine.config import Config
from engine.errors import InvalidInput, MachineUnfit
from engine.models.single_files import is_gguf_file


def check_compiles(config: Config) -> None:
    """Refuse what compiled blocks do not go with; needs no torch.

    Raises:
        InvalidInput: one sentence that names the other key and what to do.
    """
    if not config.runtime.compile:
        return
    gguf = next((path for path in config.model.single_files.values() if is_gguf_file(path)), None)
    quantize = config.model.quantize
    for is_set, other in (
        (config.runtime.deterministic, "runtime.deterministic is true, which cuts products into equal calls"),
        (config.runtime.offload == "blocks", "runtime.offload is blocks, which moves a block's weights all the time"),
        (quantize != "none", f"model.quantize is {quantize}, which was not shown to compile"),
        (gguf is not None, f"{gguf} is a GGUF file, which was not shown to compile"),
    ):
        if is_set:
            raise InvalidInput(f"runtime.compile is true, but {other}: use one of the two.")


def check_compiler(config: Config) -> None:
    """Refuse to compile where a compiler is missing; else torch would say so at the first step, in many lines.

    Raises:
        MachineUnfit: one sentence that names what is missing and what to do.
    """
    if not config.runtime.compile:
        return
    import torch  # seconds: only now, when nothing else is wrong

    on_cpu = config.runtime.device == "cpu" or not torch.cuda.is_available()
    missing = _missing_for_cpu() if on_cpu else _missing_for_cuda()
    if missing:
        raise MachineUnfit(f"runtime.compile is true, but {missing}, or use runtime.compile=false.")


def _missing_for_cpu() -> str | None:
    from parallel.torch_private import cpp_compiler

    if cpp_compiler() is None:
        return "there is no C++ compiler here: install g++, or name one in the environment's CXX"
    return _missing_headers()


def _missing_for_cuda() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton, which makes kernels for CUDA, is not installed: install the package triton"
    named = os.environ.get("CC")
    if not any(shutil.which(name) for name in ([named] if named else ["gcc", "clang", "cc"])):
        return "there is no C compiler here, which triton needs: install gcc, or name one in the environment's CC"
    return _missing_headers()


def _missing_headers() -> str | None:
    folder = Path(sysconfig.get_path("include"))
    if (folder / "Python.h").is_file():
        return None
    return f"Python's headers are not in {folder}: install python3-dev, or what this system calls it"
