"""How what takes seconds to import is imported."""

import gc
import sys
from importlib import import_module


def import_ahead(*modules: str) -> None:
    """Import modules that bring torch, diffusers and the like along, before anything large is loaded.

    Python's garbage collector stands still meanwhile: it would look again and again through the million objects that
    these libraries make and keep, which took a fifth of a rank's start. Nor does it look at them afterwards, so that
    no step of a video waits for that. What is garbage by then stays for good, so no weights may have been read.
    Modules that are there already cost nothing.
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
