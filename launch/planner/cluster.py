"""The cluster of a plan, as it is written on the command line: NODESxGPUSxGPU, for example 4x8xH100."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from engine.errors import InvalidInput
from launch.planner.cards import CPU, Card, find_card
from launch.planner.links import DEFAULT_BETWEEN, LINKS, Link, find_link

LARGEST = 4096
"""GPUs; beyond that nothing of the model was ever compared with anything."""
_NO_RATES = Card(CPU, CPU, 1.0, None, None, 1.0, 0.0, 1.0, "loopback", 1.0, "measured")


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal cards."""

    nodes: int
    per_node: int
    card: Card
    inside: Link
    between: Link

    @property
    def size(self) -> int:
        """Cards altogether."""
        return self.nodes * self.per_node

    @property
    def is_cpu(self) -> bool:
        """Whether ranks run on CPUs, of which no rates are published."""
        return self.card.name == CPU

    def of_size(self, gpus: int) -> Cluster:
        """The same with another number of cards: whole nodes, or a part of one."""
        per_node = min(self.per_node, gpus)
        return replace(self, nodes=-(-gpus // per_node), per_node=per_node)

    def __str__(self) -> str:
        return f"{self.nodes}x{self.per_node}x{self.card.name}"


def parse_cluster(text: str, link: str | None = None) -> Cluster:
    """Read a cluster.

    Args:
        text: NODESxGPUSxGPU; after the GPU may stand a colon and the link between nodes: 4x8xH100:roce-400.
        link: between nodes, as the option gives it.

    Raises:
        InvalidInput: it is no cluster; one sentence that says what to write.
    """
    match = re.fullmatch(
        r"\s*(\d{1,6})\s*[xX×]\s*(\d{1,6})\s*[xX×]\s*([A-Za-z][\w \-]*?)\s*(?::\s*([\w\-]+)\s*)?", text
    )
    if match is None:
        raise InvalidInput(
            f"--cluster is {text[:80]!r}, which is no cluster: write nodes x GPUs of a node x GPU, as in 4x8xH100."
        )
    nodes, per_node, name, written = int(match[1]), int(match[2]), match[3], match[4]
    if nodes < 1 or per_node < 1:
        raise InvalidInput(f"--cluster is {text!r}, which has no GPU: give at least 1x1x{name}.")
    if nodes * per_node > LARGEST:
        raise InvalidInput(f"--cluster is {text!r}, which are {nodes * per_node} GPUs: plan for {LARGEST} at most.")
    if written and link and written != link:
        raise InvalidInput(f"--cluster names the link {written}, but --link is {link}: give one of the two.")
    card = _NO_RATES if name.lower() == CPU else find_card(name)
    return Cluster(nodes, per_node, card, LINKS[card.inside], find_link(written or link or DEFAULT_BETWEEN))
