"""What is installed, and whether it can be imported."""

from __future__ import annotations

import shutil
from importlib import import_module

from engine.execution.versions import describe_all_versions
from launch.check.finding import Finding, judged
from launch.check.site import Site
from launch.process.packages import unfit_packages

_SHOWN = ("torch", "cuda", "nccl", "cudnn", "diffusers", "xfuser")
_MODULES = ("engine.engine", "parallel.xdit", "parallel.attention", "engine.components.hunyuan_video")


def versions(site: Site) -> Finding:
    """Versions are those that Lockstep asks for, and torch finds the cards that the driver does."""
    import torch

    short = [f"{name} cannot be imported: {error}" for name in _MODULES if (error := _error_of(name))]
    if unfit := unfit_packages():
        short.append(unfit)
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for the CPU alone"
        short.append(f"nvidia-smi is here, but torch finds no card: it is {build}, install the one for this driver")
    if site.kind == "cuda":
        able = torch.cuda.get_device_capability(site.device)
        arch = {name.removeprefix("sm_").rstrip("af") for name in torch.cuda.get_arch_list() if name.startswith("sm_")}
        if f"{able[0]}{able[1]}" not in arch and f"{able[0]}0" not in arch:
            short.append(f"torch has no kernels for sm_{able[0]}{able[1]}: it has {', '.join(sorted(arch))}")
    found = describe_all_versions()
    shown = [f"{name} {found[name]}" for name in _SHOWN if name in found]
    if site.kind == "cuda":
        shown.append(torch.cuda.get_device_name(site.device))
    return judged(short, ", ".join(shown), "as pyproject.toml asks, and imported")


def _error_of(module: str) -> str:
    try:
        import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
