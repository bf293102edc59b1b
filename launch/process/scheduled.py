"""What Linux's scheduler tells of a thread."""

from __future__ import annotations

from pathlib import Path


def scheduled_seconds(process: int | None = None) -> tuple[float, float] | None:
    """Seconds that a thread had a processor, and that it was ready to run while other threads had them.

    The second is exact: it counts when a thread leaves the queue. The first moves on with the scheduler's ticks alone,
    4 ms of a step.

    Args:
        process: its main thread; None is the calling thread.

    Returns:
        None where the system does not tell, or there is no such process.
    """
    name = "thread-self" if process is None else str(process)
    try:
        ran, queued, _ = Path("/proc", name, "schedstat").read_text(encoding="ascii").split()
        return int(ran) / 1e9, int(queued) / 1e9
    except (OSError, ValueError):
        return None
