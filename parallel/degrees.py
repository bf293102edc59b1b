"""The layout of the ranks: one small frozen object, validated once and passed down."""

import math
from dataclasses import asdict, dataclass

from parallel.config import ParallelConfig


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
        """Ranks that take decisions together: all of one model replica, everything but the data axis."""
        return self.cfg * self.sequence

    @property
    def world_size(self) -> int:
        return self.data * self.replica_size

    def __str__(self) -> str:
        return " × ".join(f"{axis} {degree}" for axis, degree in asdict(self).items())


def resolve_degrees(config: ParallelConfig, ranks: int | None, num_heads: int) -> Degrees:
    """Turn what the user said into degrees whose product is the number of ranks.

    What is left open is filled: Ulysses takes as many of the remaining ranks as the heads allow and
    ring takes the rest. A ring degree left open beside a given Ulysses degree is 1, so that a product
    that does not match is refused instead of being quietly completed.

    Args:
        ranks: the world size, or None to derive it from the given degrees.
        num_heads: attention heads of the model.

    Raises:
        ValueError: the product is not ``ranks``, the heads do not divide, or an axis has no such degree.
    """
    if config.cfg not in (1, 2):
        raise ValueError(f"parallel.cfg is {config.cfg}, but there are two guidance branches at most: use 1 or 2.")
    outer = config.data * config.cfg
    degrees = Degrees(config.data, config.cfg, *_sequence_degrees(config, ranks, outer, num_heads))
    if ranks is not None and degrees.world_size != ranks:
        raise ValueError(
            f"The parallel degrees {degrees} multiply to {degrees.world_size}, but there are {ranks} ranks: "
            f"change the degrees or start {degrees.world_size} ranks."
        )
    if num_heads % degrees.ulysses:
        divisors = [d for d in range(1, num_heads + 1) if num_heads % d == 0]
        raise ValueError(
            f"parallel.ulysses is {degrees.ulysses}, which does not divide the model's {num_heads} attention heads: "
            f"use one of {divisors}, or parallel.ring for the rest."
        )
    return degrees


def _sequence_degrees(config: ParallelConfig, ranks: int | None, outer: int, num_heads: int) -> tuple[int, int]:
    remaining = max(1, ranks // outer) if ranks is not None else 1
    if config.ulysses is not None:
        return config.ulysses, config.ring or 1
    if config.ring is not None:
        return max(1, remaining // config.ring), config.ring
    ulysses = math.gcd(remaining, num_heads)
    return ulysses, remaining // ulysses
