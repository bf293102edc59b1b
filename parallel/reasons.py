"""The reason for the degree of each axis, one sentence with the numbers; the rules are in placement.py."""

from parallel.config import ParallelConfig
from parallel.degrees import Degrees
from parallel.machines import Machines


def give_reasons(
    config: ParallelConfig,
    degrees: Degrees,
    machines: Machines,
    num_heads: int,
    guided: bool,
    videos: int | None = None,
) -> dict[str, str]:
    """One sentence for each of data, cfg, ulysses and ring.

    Args:
        config: as the user gave it.
        degrees: what :func:`parallel.placement.find_placement` made of them.
        videos: of the list, where that is known.
    """
    return {
        "data": _why_data(config, degrees, videos),
        "cfg": _why_cfg(config, degrees, guided),
        "ulysses": _why_ulysses(config, degrees, machines, num_heads),
        "ring": _why_ring(config, degrees, machines),
    }


def _why_data(config: ParallelConfig, degrees: Degrees, videos: int | None) -> str:
    replica = _ranks(degrees.cfg * degrees.sequence)
    if config.seeks_replicas:
        return _why_replicas(degrees, videos, replica)
    if degrees.data == 1:
        return f"1 unless given: one replica of {replica}."
    return f"As given: {degrees.data} replicas of {replica}, which send one another nothing."


def _why_replicas(degrees: Degrees, videos: int | None, replica: str) -> str:
    goal = "The goal is throughput" + ("" if videos is None else f", and there {_are(videos)} to make")
    if degrees.data == 1:
        few = degrees.world_size == 1 or videos == 1
        return f"{goal}: one replica of {replica}{'' if few else ', since the model fits into no smaller one'}."
    full = degrees.cfg * degrees.sequence == 1 or degrees.data == videos
    why = (
        "which send one another nothing" if full else "the smallest that divide the ranks and that the model fits into"
    )
    return f"{goal}: {degrees.data} replicas of {replica}, {why}."


def _are(videos: int) -> str:
    return "is 1 video" if videos == 1 else f"are {videos} videos"


def _why_cfg(config: ParallelConfig, degrees: Degrees, guided: bool) -> str:
    replica = degrees.cfg * degrees.sequence
    if config.cfg == 2:
        return "As given."
    if not guided:
        return "A step computes 1 guidance branch, which leaves nothing to split."
    if config.cfg == 1:
        return "1 unless given: the 2 guidance branches take turns."
    if degrees.cfg == 2:
        return (
            f"The 2 guidance branches run on {_ranks(degrees.sequence)} each and exchange one velocity a step, the "
            "least that any axis sends."
        )
    if replica % 2:
        return f"The 2 guidance branches cannot share {_ranks(replica)} evenly."
    return f"The given degrees leave no 2 of {_ranks(replica)} for the guidance branches."


def _why_ulysses(config: ParallelConfig, degrees: Degrees, machines: Machines, num_heads: int) -> str:
    if config.ulysses is not None:
        return "As given."
    if degrees.sequence == 1:
        return "One rank holds a whole sequence."
    if config.ring is not None:
        return f"What the given ring of {config.ring} leaves of {degrees.sequence} sequence ranks."
    best = f"The largest degree that divides {num_heads} attention heads"
    if machines.nodes == 1:
        return f"{best} and {degrees.sequence} sequence ranks."
    return (
        f"{best}, {degrees.sequence} sequence ranks and the {machines.devices} of a node, so that no group crosses "
        "nodes."
    )


def _why_ring(config: ParallelConfig, degrees: Degrees, machines: Machines) -> str:
    if config.ring is not None:
        return "As given."
    if degrees.sequence == 1:
        return "One rank holds a whole sequence."
    if degrees.ring == 1:
        return f"Ulysses takes all {degrees.sequence} sequence ranks."
    if degrees.ulysses == 1:
        share = f"Takes all {degrees.sequence} sequence ranks"
    else:
        share = f"Takes the rest of the {degrees.sequence} sequence ranks, {degrees.sequence} / {degrees.ulysses}"
    if machines.nodes == 1:
        return f"{share}."
    where = "across" if machines.are_crossed_by(degrees.sequence) else "inside"
    return f"{share}, {where} nodes of {machines.devices}."


def _ranks(count: int) -> str:
    return f"{count} rank{'' if count == 1 else 's'}"
