"""Where the ranks of a gang live: a placement group with a bundle for each, in the order of its nodes."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Container, Mapping, Sequence
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

Bundle = Mapping[str, float]
_CONNECT_SECONDS = 2.0


@dataclass(frozen=True)
class RankBundle:
    """One rank's: a bundle of the group, and the node that holds it."""

    bundle: int
    node_id: str
    node: str  # for people

    def __str__(self) -> str:
        return f"node {self.node}"


@dataclass(frozen=True)
class Places:
    """A placement group and what it gave, by rank. Ray removes it with the driver, should that be killed."""

    group: PlacementGroup
    by_rank: Sequence[RankBundle]

    @property
    def nodes(self) -> list[str]:
        """The node of each rank."""
        return [place.node_id for place in self.by_rank]

    def are_intact(self) -> bool:
        """Whether a gang can be started here again: every node lives, and every bundle is where it was."""
        alive = living(set(self.nodes))
        table = placement_group_table(self.group)
        where = table.get("bundles_to_node_id", {})
        return table.get("state") == "CREATED" and all(
            place.node_id in alive and where.get(place.bundle) == place.node_id for place in self.by_rank
        )

    def release(self) -> None:
        """Give the resources back."""
        remove_placement_group(self.group)


def living(node_ids: Container[str]) -> set[str]:
    """Those of the nodes that are up.

    Ray takes half a minute to say that a node is lost, and would start a gang there meanwhile, so each is asked: the
    port of its raylet, to which every driver has to find its way in any case.
    """
    return {node["NodeID"] for node in ray.nodes() if node["NodeID"] in node_ids and node["Alive"] and _answers(node)}


def _answers(node: Mapping[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def reserve(ranks: int, bundle: Bundle, timeout_seconds: float) -> Places:
    """A place for each rank: on one node if one has room now, else on as few as Ray finds.

    Raises:
        InvalidInput: there was no room in that time; says what is missing.
    """
    strategy = "STRICT_PACK" if any(_room(free, bundle) >= ranks for free in free_resources_by_node()) else "PACK"
    group = placement_group([dict(bundle)] * ranks, strategy=strategy)
    try:
        if not group.wait(timeout_seconds):
            raise InvalidInput(_what_is_missing(ranks, bundle, timeout_seconds))
        where = placement_group_table(group)["bundles_to_node_id"]
        names = {node["NodeID"]: name_of(node) for node in ray.nodes()}
        order = order_by_node(where, ray.get_runtime_context().get_node_id())
        return Places(group, [RankBundle(index, where[index], names.get(where[index], "?")) for index in order])
    except BaseException:
        remove_placement_group(group)
        raise


def order_by_node(where: Mapping[int, str], first: str) -> list[int]:
    """Bundles in the order of the ranks that they hold: node by node, ``first`` before others, then larger ones."""
    counts = Counter(where.values())
    return sorted(where, key=lambda bundle: (where[bundle] != first, -counts[where[bundle]], where[bundle], bundle))


def machines_of(nodes: Sequence[str]) -> tuple[int, int]:
    """(machines, ranks on each) for the layout, from the node of each rank. Nodes that hold different numbers count in
    parts of their greatest common divisor: a group that stays inside a part stays inside a node."""
    part = math.gcd(*Counter(nodes).values())
    return len(nodes) // part, part


def name_of(node: Mapping[str, Any]) -> str:
    """A node as a person finds it: its address, and the id, which alone tells nodes of one machine apart."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def _room(free: Mapping[str, float], bundle: Bundle) -> int:
    return min(int(free.get(name, 0) // amount) for name, amount in bundle.items())


def _what_is_missing(ranks: int, bundle: Bundle, timeout_seconds: float) -> str:
    has, free = ray.cluster_resources(), ray.available_resources()
    each = " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())
    resources = ", ".join(f"{has.get(name, 0):g} {name} of which {free.get(name, 0):g} are free" for name in bundle)
    nodes = sum(node["Alive"] for node in ray.nodes())
    return (
        f"The Ray cluster had no room for {ranks} ranks with {each} each within {timeout_seconds:g} s: its "
        f"{nodes} nodes have {resources}. Use fewer ranks, or add nodes, or wait until others have finished."
    )
