"""The Ray placement group of a gang: one bundle for each rank, in the order of the nodes."""

from __future__ import annotations

import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from engine.errors import InvalidInput
from launch.gang.ray_private import free_resources_by_node
from launch.gang.watch import RayWatch
from launch.process.bounded import within

Resources = Mapping[str, float]
"""Amounts by Ray's name of the resource: CPU, GPU."""
_CONNECT_SECONDS = 2.0
_LOOK_SECONDS = 1.0
_FIRST_TOLD_SECONDS = 2.0
_TELL_SECONDS = 10.0


@dataclass(frozen=True)
class BundleOnNode:
    """The bundle of one rank, and the node that holds it."""

    index: int
    """In the placement group."""
    node_id: str
    node: str
    """The node's name in messages, as of :func:`name_of`."""

    def __str__(self) -> str:
        return f"node {self.node}"


@dataclass(frozen=True)
class RankBundles:
    """A placement group and its bundles by rank. Ray removes the group when the driver ends, also when it is killed."""

    group: PlacementGroup
    by_rank: Sequence[BundleOnNode]

    @property
    def node_ids(self) -> list[str]:
        """The node of each rank."""
        return [bundle.node_id for bundle in self.by_rank]

    def are_intact(self) -> bool:
        """Whether a gang can be started here again: every node is up, and every bundle is on the node it was on."""
        alive = living(set(self.node_ids))
        table = placement_group_table(self.group)
        where = table.get("bundles_to_node_id", {})
        return table.get("state") == "CREATED" and all(
            bundle.node_id in alive and where.get(bundle.index) == bundle.node_id for bundle in self.by_rank
        )

    def release(self) -> None:
        """Give the resources back to the cluster."""
        remove_placement_group(self.group)


def living(node_ids: Container[str]) -> set[str]:
    """Those of the nodes that are up.

    Ray takes half a minute to notice that a node is lost, and would start a gang there meanwhile. So each node is
    asked: it is up if the port of its raylet accepts a connection, which every driver needs in any case.
    """
    return {node["NodeID"] for node in ray.nodes() if node["NodeID"] in node_ids and node["Alive"] and _answers(node)}


def _answers(node: Mapping[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def reserve(
    ranks: int, resources: Resources, timeout_seconds: float, ray_watch: RayWatch, note: Callable[[str], None]
) -> RankBundles:
    """Reserve a bundle for each rank: all on one node if one has room now, else on as few nodes as Ray finds.

    Args:
        resources: of each bundle.
        note: takes a line every ten seconds while there is no room, with what is missing.

    Raises:
        InvalidInput: there was no room in that time; the message says what is missing.
        RayLost: Ray is gone.
    """
    free = ray_watch.call(free_resources_by_node)
    strategy = "STRICT_PACK" if any(_room(each, resources) >= ranks for each in free) else "PACK"
    group = ray_watch.call(lambda: placement_group([dict(resources)] * ranks, strategy=strategy))
    try:
        _await_room(group, ranks, resources, timeout_seconds, ray_watch, note)
        where = ray_watch.call(lambda: placement_group_table(group)["bundles_to_node_id"])
        names = {node["NodeID"]: name_of(node) for node in ray_watch.call(ray.nodes)}
        order = order_by_node(where, ray.get_runtime_context().get_node_id())
        return RankBundles(group, [BundleOnNode(index, where[index], names.get(where[index], "?")) for index in order])
    except BaseException:
        with suppress(Exception):  # what is not removed here, Ray removes when this process has ended
            within(_CONNECT_SECONDS, lambda: remove_placement_group(group))
        raise


def _await_room(
    group: PlacementGroup,
    ranks: int,
    resources: Resources,
    timeout_seconds: float,
    ray_watch: RayWatch,
    note: Callable[[str], None],
) -> None:
    began = time.monotonic()
    tell_at = began + _FIRST_TOLD_SECONDS
    while not ray_watch.call(lambda: group.wait(min(_LOOK_SECONDS, timeout_seconds))):
        waited = time.monotonic() - began
        if waited >= timeout_seconds:
            raise InvalidInput(ray_watch.call(lambda: _no_room(ranks, resources, timeout_seconds)))
        if time.monotonic() >= tell_at:
            tell_at = time.monotonic() + _TELL_SECONDS
            missing = ray_watch.call(lambda: what_is_missing(ranks, resources, *_amounts()))
            note(f"waiting for room in the Ray cluster: {missing} ({waited:.0f} of {timeout_seconds:g} s)")


def order_by_node(where: Mapping[int, str], first: str) -> list[int]:
    """Indices of bundles in rank order: node by node, the node ``first`` before others, then those with more bundles.

    Args:
        where: the node id of each bundle, by index.
    """
    counts = Counter(where.values())
    return sorted(where, key=lambda bundle: (where[bundle] != first, -counts[where[bundle]], where[bundle], bundle))


def machines_of(nodes: Sequence[str]) -> tuple[int, int]:
    """(machines, ranks on each) for the layout, from the node id of each rank.

    Nodes that hold different numbers of ranks count as several machines, each with as many ranks as the greatest
    common divisor of those numbers: a process group inside such a machine is inside one node.
    """
    ranks_each = math.gcd(*Counter(nodes).values())
    return len(nodes) // ranks_each, ranks_each


def name_of(node: Mapping[str, Any]) -> str:
    """A node in messages: its address, and the start of its id, for several nodes may be on one machine."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def _room(free: Mapping[str, float], resources: Resources) -> int:
    return min(int(free.get(name, 0) // amount) for name, amount in resources.items())


def _amounts() -> tuple[Mapping[str, float], Mapping[str, float]]:
    """What all nodes have, and what of it is free."""
    return ray.cluster_resources(), ray.available_resources()


def what_is_missing(ranks: int, resources: Resources, has: Mapping[str, float], free: Mapping[str, float]) -> str:
    """What a gang waits for, in words: "1 of 2 GPU are free".

    Args:
        resources: of each rank.
        has: what all nodes of the cluster have. free: what of it is free.
    """
    parts = []
    for name, amount in resources.items():
        needed, there, left = ranks * amount, has.get(name, 0), free.get(name, 0)
        if there < needed:
            parts.append(f"the cluster has {there:g} of {needed:g} {name}")
        elif left < needed:
            parts.append(f"{left:g} of {needed:g} {name} are free")
    return ", ".join(parts) or "what is free is not on one node together"


def _no_room(ranks: int, resources: Resources, timeout_seconds: float) -> str:
    has, free = ray.cluster_resources(), ray.available_resources()
    each = " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
    there = ", ".join(f"{has.get(name, 0):g} {name} of which {free.get(name, 0):g} are free" for name in resources)
    nodes = sum(node["Alive"] for node in ray.nodes())
    return (
        f"The Ray cluster had no room for {ranks} ranks with {each} each within {timeout_seconds:g} s: its "
        f"{nodes} nodes have {there}. Use fewer ranks, or add nodes, or wait until others have finished."
    )
