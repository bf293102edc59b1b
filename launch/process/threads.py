"""How the CPU threads of torch behave beside other work."""

import os


def spin_briefly() -> None:
    """Let OpenMP threads sleep soon when they wait for one another; before torch is imported.

    By default they spin for milliseconds. Where another process holds a core, the one that waits then keeps the
    other from running: two threads on a machine with one busy core took 30 times as long, with this 3 times.
    On a quiet machine it costs nothing that could be measured. What the user has set stays.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
