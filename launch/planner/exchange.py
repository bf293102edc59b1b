"""Seconds that ranks spend in collectives, by the links that a layout's groups use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from launch.planner.cluster import Cluster
from launch.planner.links import Link
from parallel.degrees import Degrees


@dataclass(frozen=True)
class Group:
    """Ranks that exchange something, as they lie on the nodes."""

    size: int
    largest_on_node: int
    nodes: int


def sequence_axes(degrees: Degrees, per_node: int) -> dict[str, Group]:
    """The first group of each axis; ranks are numbered data, cfg, ring, ulysses, the last fastest."""
    u, ring, cfg = degrees.ulysses, degrees.ring, degrees.cfg
    return {
        "ulysses": _group(range(u), per_node),
        "ring": _group(range(0, u * ring, u), per_node),
        "sequence": _group(range(u * ring), per_node),
        "cfg": _group(range(0, u * ring * cfg, u * ring), per_node),
        "replica": _group(range(u * ring * cfg), per_node),
    }


def _group(ranks: Sequence[int], per_node: int) -> Group:
    held = Counter(rank // per_node for rank in ranks)
    return Group(len(ranks), max(held.values()), len(held))


def all_to_all_seconds(sent: float, group: Group, cluster: Cluster) -> float:
    """A rank sends the same to each other rank, ``sent`` bytes altogether; what leaves the node and what stays do so at
    the same time."""
    if group.size < 2:
        return 0.0
    outside = group.size - group.largest_on_node
    across = sent * outside / (group.size - 1)
    inside_seconds = _transfer(sent - across, cluster.inside, cluster, group)
    if not outside:
        return inside_seconds
    return max(inside_seconds, _transfer(across, cluster.between, cluster, group))


def gather_seconds(received: float, group: Group, cluster: Cluster) -> float:
    """A rank receives ``received`` bytes, as much from each other rank: along a chain of neighbours, whose slowest link
    counts."""
    if group.size < 2:
        return 0.0
    return _transfer(received, cluster.between if group.nodes > 1 else cluster.inside, cluster, group)


def _transfer(size: float, link: Link, cluster: Cluster, group: Group) -> float:
    rate = link.bytes_per_second * link.share
    if link.shared_by_node:
        # all ranks of the node send at once, whatever their group is
        rate /= max(1, cluster.per_node if link is cluster.between else group.size)
    return link.latency_seconds + size / rate
