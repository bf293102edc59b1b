"""One small collective for each step, after which every rank of a model replica has the same numbers.

Each rank contributes a row of float64 numbers. The rows are gathered and added **in rank order**, so every rank does
the same additions on the same operands and gets the same bits. An all-reduce would round as the backend likes.
Decisions taken from the result cannot differ between ranks.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.broadcast import objects_of_all
from parallel.control import Control
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks


class NotFiniteError(RuntimeError):
    """A rank's activations hold NaN or infinity; raised on every rank alike."""


class DivergedError(RuntimeError):
    """The ranks are not doing the same thing; raised on every rank alike."""


@dataclass(frozen=True)
class Agreed:
    """What every rank of the replica knows after a step's collective."""

    sums: tuple[float, ...]
    control: Control


class Verdict:
    """Whether something is finite on all ranks of the replica. What it takes is begun at once, and may go on while the
    rank does other work."""

    def __init__(self, finite: Tensor, ranks: Ranks, meter: CollectiveMeter) -> None:
        """Collective over the replica.

        Args:
            finite: bool scalar on the ranks' device, whether this rank's values are finite.
        """
        self._ranks, self._meter = ranks, meter
        self._flags = (~finite).double().reshape(1)
        self._work: dist.Work | None = None
        if ranks.replica_group is not None:
            own, self._flags = self._flags, self._flags.new_empty(ranks.replica_size)
            self._own = own  # kept until it is sent
            self._work = dist.all_gather_single(self._flags, own, group=ranks.replica_group, async_op=True)
            meter.count("vae_agreement", own, ranks.replica_size - 1)

    def wait(self) -> None:
        """Wait for the other ranks."""
        if self._work is not None:
            with self._meter.lap("vae_agreement"):
                self._work.wait()
            self._work = None

    def require_finite(self, what: str, advice: str) -> None:
        """Wait for the other ranks, and raise an error on every one of them if something is not finite on some rank.

        Args, Raises: as of :func:`require_finite`.
        """
        self.wait()
        where = ""
        if self._ranks.replica_group is not None:
            bad = (self._ranks.first_in_replica + i for i in self._flags.nonzero().flatten().tolist())
            where = f" on rank {', '.join(map(str, bad))}"
        if self._flags.any():
            raise NotFiniteError(f"{what} are not finite{where}: {advice}.")


def require_finite(finite: Tensor, what: str, advice: str, ranks: Ranks, meter: CollectiveMeter) -> None:
    """Raise an error on every rank of the replica if something is not finite on some rank; collective over the replica.
    An error on one rank alone would leave the others waiting for it.

    Args:
        finite: bool scalar on the ranks' device, whether this rank's values are finite.
        what: "The decoded frames".
        advice: what to do.

    Raises:
        NotFiniteError: on all ranks alike.
    """
    Verdict(finite, ranks, meter).require_finite(what, advice)


class Agreement:
    """The collective, and the seconds this rank has spent in it.

    The seconds include waiting for slower ranks and for the device to finish what the sums depend on.
    """

    def __init__(
        self, ranks: Ranks, meter: CollectiveMeter, control: Callable[[], Control] = lambda: Control.RUN
    ) -> None:
        """
        Args:
            control: returns this rank's wish; called at every agreement, and the largest wish of all ranks holds.
        """
        self.seconds = 0.0
        self._ranks = ranks
        self._meter = meter
        self._control = control

    def agree(self, *, step: int, expected_tokens: int, num_tokens: int, sums: Tensor, finite: Tensor) -> Agreed:
        """Add every rank's partial sums and agree on the control word. Collective over the replica, once for each step.

        Args:
            step: index of the denoise step, which must be the same on all ranks.
            expected_tokens: tokens that all ranks together must have counted.
            num_tokens: tokens that this rank's sums run over.
            sums: float64 [n] on the ranks' device, this rank's partial sums, equal n on all ranks.
            finite: bool scalar, whether this rank's activations are finite.

        Raises:
            NotFiniteError: some rank holds values that are not finite.
            DivergedError: ranks are at different steps, or their tokens do not add up to the sequence.
        """
        wish = int(self._control())
        started = time.perf_counter()
        header = torch.tensor([step, num_tokens, wish], dtype=torch.float64, device=sums.device)
        own_row = torch.cat([header, (~finite).double().reshape(1), sums])
        rows = self._gather(own_row).tolist()
        self.seconds += time.perf_counter() - started

        self._check(step, expected_tokens, rows)
        return Agreed(
            sums=tuple(_add_in_rank_order([row[4 + i] for row in rows]) for i in range(len(sums))),
            control=Control(int(max(row[2] for row in rows))),
        )

    def agree_between_stages(self) -> Control:
        """Agree on the control word alone, between two stages; collective over the replica."""
        return max(objects_of_all(self._control(), self._ranks))

    def _gather(self, own_row: Tensor) -> Tensor:
        """[n] → [ranks, n], row i from the replica's rank i."""
        if self._ranks.replica_group is None:
            return own_row[None]
        rows = own_row.new_empty(self._ranks.replica_size * own_row.numel())
        with self._meter.lap("agreement"):
            dist.all_gather_single(rows, own_row, group=self._ranks.replica_group)
        self._meter.count("agreement", own_row, self._ranks.replica_size - 1)
        return rows.view(self._ranks.replica_size, -1)

    def _check(self, step: int, expected_tokens: int, rows: list[list[float]]) -> None:
        first = self._ranks.first_in_replica
        if len({row[0] for row in rows}) > 1:
            steps = ", ".join(f"rank {first + i} at step {row[0]:.0f}" for i, row in enumerate(rows))
            raise DivergedError(f"The ranks are at different denoise steps ({steps}): stop the job and report this.")
        bad = [first + i for i, row in enumerate(rows) if row[3] or not all(map(math.isfinite, row[4:]))]
        if bad:
            raise NotFiniteError(
                f"Values that are not finite on rank {', '.join(map(str, bad))} at denoise step {step}: "
                "try another seed, a lower guidance or a wider dtype."
            )
        counted = sum(row[1] for row in rows)
        if counted != expected_tokens:
            raise DivergedError(
                f"The ranks counted {counted:.0f} tokens at denoise step {step}, but there are {expected_tokens}: "
                "stop the job and report this."
            )


def _add_in_rank_order(values: list[float]) -> float:
    """Plain left-to-right addition: the one order that is the same on every rank."""
    total = 0.0
    for value in values:
        total += value
    return total
