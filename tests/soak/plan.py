"""What is to be killed, and when: first every rank in every phase, then as the seed says."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence

RANKS = 2
Fault = tuple[int, str, str, float]  # rank, where, how, seconds later, as in tests/support/injected
Trouble = tuple[str, float]  # what, for how many seconds
STEPS = 12  # of each video
# a moment of each phase; the second rank writes no files, but may die while the first one does
_PHASES = ("load", "warmup", "skip", "compute", "checkpoint", "decode")
_WRITING = ((0, "frames"), (0, "commit"), (0, "renamed"), (1, "commit"))
# of a hundred kills; to freeze, to hang and to lose a node takes longer to notice
_HOW = {"kill": 82, "driver": 12, "freeze": 3, "hang": 1, "node": 2}
# weight, and for how long: one that is stopped for longer than a lease has lost its job when it wakes up
_TROUBLES = {
    "full disk": (6, 1.0, 8.0),
    "locked queue": (6, 1.0, 12.0),
    "stopped driver": (4, 1.0, 75.0),
    "raylet": (4, 0.0, 0.0),
    "head": (1, 0.0, 5.0),
}
OUTSIDE = 0.2
"""The share of all faults that are caused from outside."""
_LATEST_SECONDS = 0.1  # about what a video takes once the model is loaded, so that any moment may be met


def every_phase() -> list[Fault]:
    """Each rank is killed in each phase."""
    pairs = [(rank, where) for where in _PHASES for rank in range(RANKS)]
    return [(rank, where, "kill", 0.0) for rank, where in (*pairs, *_WRITING)]


def at_random(seed: int) -> Iterator[Fault]:
    """Faults without end; equal for equal seeds."""
    draw = random.Random(seed)
    moments = [*((rank, where) for where in (*_PHASES, "encode") for rank in range(RANKS)), *_WRITING]
    moments += [(rank, str(step)) for step in range(STEPS) for rank in range(RANKS)]
    while True:
        rank, where = draw.choice(moments)
        (how,) = draw.choices(list(_HOW), list(_HOW.values()))
        seconds = 0.0 if how in ("hang", "node") else round(draw.uniform(0, _LATEST_SECONDS), 4)
        yield rank, where, how, seconds


def share_out(kills: int, gangs: int, seed: int) -> list[list[Fault]]:
    """A plan for each gang, ``kills`` in all; the first has every phase in it."""
    plans: list[list[Fault]] = [[] for _ in range(gangs)]
    plans[0] += every_phase()[:kills]
    for fault in at_random(seed):
        shortest = min(plans, key=len)
        if sum(map(len, plans)) >= kills:
            return plans
        shortest.append(fault)
    raise AssertionError("at_random has no end")


def troubles(count: int, seed: int, can_mount: bool) -> list[Trouble]:
    """Faults of what gangs stand on; equal for equal seeds, and with each kind among the first five.

    Args:
        can_mount: a disk can be mounted for the queue, and be filled.
    """
    draw = random.Random(seed)
    kinds = [kind for kind in _TROUBLES if can_mount or kind != "full disk"]
    weights = [_TROUBLES[kind][0] for kind in kinds]
    names = [*kinds, *draw.choices(kinds, weights, k=count)][:count]
    return [(name, round(draw.uniform(*_TROUBLES[name][1:]), 1)) for name in names]


def describe(met: Sequence[Fault], outside: Sequence[Trouble] = ()) -> str:
    """Faults by what met them, in words."""
    names = {"kill": "rank", "driver": "driver", "freeze": "frozen rank", "hang": "hung rank", "node": "node"}
    counts = Counter([*(names[how] for _, _, how, _ in met), *(what for what, _ in outside)])
    return ", ".join(f"{name} {counts[name]}" for name in (*names.values(), *_TROUBLES) if counts[name])
