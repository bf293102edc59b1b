"""What a machine is, for the report: processors, cards, driver, links."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from launch.process.threads import count_cores

_SETTINGS = re.compile(r"^(CUDA|NCCL|PYTORCH|TORCH|OMP|GLOO|NVIDIA|CUBLAS)_\w+$")
_PRIVATE = re.compile(r"PATH|HOME|DIR|FILE|ADDR|HOST|KEY|TOKEN", re.IGNORECASE)
_SECONDS = 10.0


def describe_machine() -> dict[str, Any]:
    """This machine. Asks the driver and no card, so that no context is opened on one."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "processor": _processor(),
        "cores": count_cores(),
        "memory_gigabytes": _memory_gigabytes(),
        "gpus": _gpus(),
        "topology": _topology(),
        "settings": {
            name: value
            for name, value in sorted(os.environ.items())
            if _SETTINGS.match(name) and not _PRIVATE.search(name) and "/" not in value
        },
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gigabytes() -> float:
    import psutil

    return round(psutil.virtual_memory().total / 1e9, 1)


def _gpus() -> list[dict[str, str]]:
    """From nvidia-smi, which knows them all, whatever CUDA_VISIBLE_DEVICES leaves to us."""
    names = (
        "name",
        "driver_version",
        "memory.total",
        "power.limit",
        "clocks.max.sm",
        "ecc.mode.current",
        "mig.mode.current",
    )
    rows = _output("nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader").splitlines()
    return [dict(zip(names, map(str.strip, row.split(",")), strict=False)) for row in rows if row.strip()]


def _topology() -> list[str]:
    """How the cards are connected, as `nvidia-smi topo -m` draws it, without the colours."""
    drawn = re.sub(r"\x1b\[[0-9;]*m", "", _output("nvidia-smi", "topo", "-m"))
    return [line.rstrip().expandtabs(8) for line in drawn.splitlines() if line.strip()]


def _output(*command: str) -> str:
    """What a program prints; nothing where it is not installed, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
