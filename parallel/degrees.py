"""The layout of the ranks: one small frozen object, validated once and passed down."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Degrees:
    """Ranks along each axis. The order, slowest first, is data, cfg, ring, ulysses."""

    data: int = 1
    cfg: int = 1
    ulysses: int = 1
    ring: int = 1

    @property
    def sequence(self) -> int:
        """Ranks that share the tokens of one sequence."""
        return self.ulysses * self.ring

    @property
    def replica_size(self) -> int:
        """Ranks of one model replica, which take decisions together: all axes but data."""
        return self.cfg * self.sequence

    @property
    def world_size(self) -> int:
        """All ranks of the job."""
        return self.data * self.replica_size

    def __str__(self) -> str:
        return " × ".join(f"{axis} {degree}" for axis, degree in asdict(self).items())
