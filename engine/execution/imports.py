"""Imports of large libraries, which take seconds."""

import gc
import sys
from importlib import import_module


def import_ahead(*modules: str) -> None:
    """Import modules that import torch, diffusers and the like, with Python's garbage collector disabled.

    The collector would scan the million objects of these libraries again and again, which took a fifth of a rank's
    start. Afterwards they are frozen (``gc.freeze``), so that no denoise step waits for a scan of them either. Garbage
    of that moment is never freed, so call this before weights are read. Modules that are imported already cost nothing.
    """
    if all(name in sys.modules for name in modules):
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        for name in modules:
            import_module(name)
    finally:
        if collecting:
            gc.freeze()
            gc.enable()
