"""The number of machines, and of ranks on each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machines:
    """Nodes with equally many ranks. Rank r is on node r // devices, as torchrun numbers them.

    Where nodes hold different numbers of ranks, give the greatest common divisor of these numbers as ``devices`` and
    count parts of that size as nodes: a group inside a part is inside a node.
    """

    nodes: int
    devices: int  # ranks on each node

    def are_crossed_by(self, run: int) -> bool:
        """Whether any group crosses nodes if ranks are grouped from rank 0 on, ``run`` neighbours in each."""
        return self.nodes > 1 and self.devices % run != 0
