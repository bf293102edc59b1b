"""How many machines there are, and how many ranks on each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machines:
    """Ranks over nodes that hold equally many. Rank r is on node r // devices, as torchrun numbers them.

    Where nodes differ, count in parts as large as the greatest common divisor of their ranks: what stays
    inside a part stays inside a node.
    """

    nodes: int
    devices: int  # ranks on each node

    def are_crossed_by(self, run: int) -> bool:
        """Whether runs of so many ranks, one after the other from rank 0 on, cross nodes anywhere."""
        return self.nodes > 1 and self.devices % run != 0
