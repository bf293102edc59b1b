"""One process of a gang as a Ray actor, whatever its work: its place, its rank, and answers to the driver."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import ray

from engine.errors import InvalidInput
from engine.execution.imports import import_ahead
from launch.gang.assignment import ActorInfo, RankAssignment
from launch.gang.recorder import Recorder, Status
from launch.jobs.config import JobConfig
from launch.process.failures import Failure, describe
from launch.process.hangs import RankState, stack_of
from launch.process.quiet import quiet_libraries
from launch.process.threads import count_cores, spin_briefly
from parallel.control import Control
from parallel.place import Place

if TYPE_CHECKING:
    from torch.distributed import TCPStore

STATUS_GROUP = "status"


@dataclass(frozen=True)
class Outcome:
    """The result of a call of a rank. An error is described in it, since not every exception can be pickled."""

    failure: Failure | None = None
    port: int | None = None
    """Of the store, from rank 0's ``become_rank``."""


class RankActor:
    """Called in the order describe, become_rank, and then what its work consists of; status, state and leave at any
    time.

    All but those three run in one thread, since torch keeps the current CUDA device for each thread.
    """

    GROUPS: ClassVar[Sequence[str]] = (STATUS_GROUP,)
    """Ray's concurrency groups: methods that are answered while the rank works, in one more thread for each group."""

    def __init__(self) -> None:
        self._assignment: RankAssignment
        self._recorder = Recorder()
        self._store: TCPStore | None = None
        self._control = 0, Control.RUN  # number of the job that it is meant for, and what is asked of it
        self._worker = 0  # id of the thread that works
        self._begun: int | None = None  # collective operations, when the driver last asked

    def describe(self) -> ActorInfo:
        """Where this actor is."""
        context = ray.get_runtime_context()
        gpus = [str(gpu) for gpu in ray.get_gpu_ids()]
        return ActorInfo(context.get_node_id(), ray.util.get_node_ip_address(), gpus, count_cores())

    def become_rank(self, assignment: RankAssignment, carried: Mapping[str, str], address: str) -> Outcome:
        """Set up the environment of a rank, and import what takes seconds. Rank 0 opens the store for the rendezvous.

        Args:
            carried: variables of the driver.
            address: of the store, on rank 0's node.
        """
        self._assignment = assignment
        self._worker = threading.get_ident()
        self._recorder.moved()
        try:
            assignment.set_environment(os.environ, carried, address)
            quiet_libraries()
            spin_briefly()
            import_ahead("engine.engine")  # all ranks at the same time, and after the environment, which torch reads

            if assignment.rank > 0:
                return Outcome()
            from torch.distributed import TCPStore

            self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
            return Outcome(port=self._store.port)
        except Exception as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> Outcome:
        return Outcome(describe(error, self._assignment.rank, self._recorder.phase))

    def _join_at(self, port: int) -> None:
        """Have the engine join the other ranks at the store's port."""
        os.environ["MASTER_PORT"] = str(port)

    @property
    def _place(self) -> Place:
        assignment = self._assignment
        nodes = assignment.ranks // assignment.ranks_per_node
        return Place(assignment.ranks, assignment.rank, assignment.ranks_per_node, nodes)

    @ray.method(concurrency_group=STATUS_GROUP)
    def status(self, seen: int, number: int, control: Control) -> Status:
        """The phase of this rank and its newest events, also while it works.

        Args:
            seen: events that the driver has already had.
            number, control: of a job, and what is asked of it from now on.
        """
        self._control = number, control
        if (begun := self._collectives_begun()) != self._begun:  # as ranks that only decode show that they get on
            self._begun = begun
            self._recorder.moved()
        return self._recorder.status(seen)

    @ray.method(concurrency_group=STATUS_GROUP)
    def leave(self) -> None:
        """End this process at once, since Ray, which would do so, is gone."""
        os._exit(1)

    @ray.method(concurrency_group=STATUS_GROUP)
    def state(self) -> RankState:
        """What this rank shows of itself, also while it works."""
        status = self._recorder.status(0)
        return RankState(status.phase, status.idle_seconds, stack_of(self._worker), self._collectives_begun())

    @staticmethod
    def _collectives_begun() -> int | None:
        """As of torch's groups; None before they can have been made."""
        count = getattr(sys.modules.get("parallel.torch_private"), "collectives_begun", None)  # it may be half imported
        return count() if count is not None else None


def change_folder(folder: str, paths: Sequence[Path], advice: str) -> None:
    """Go to the driver's working directory, to which relative paths refer.

    Args:
        paths: of the files that the work reads or writes here.
        advice: what to do where that fails.

    Raises:
        InvalidInput: it is not on this node, and one of the paths is relative.
    """
    try:
        os.chdir(folder)
    except OSError:
        if any(not path.is_absolute() for path in paths):
            raise InvalidInput(
                f"The folder {folder}, from which files are named, does not exist on every node: {advice}."
            ) from None


def with_longer_timeouts(config: JobConfig) -> JobConfig:
    """With twice the timeouts for collectives: the driver sees all ranks, so it should find one that hangs first."""
    runtime = config.runtime
    limits = {name: 2 * getattr(runtime, name) for name in ("load_timeout_seconds", "step_timeout_seconds")}
    return config.model_copy(update={"runtime": runtime.model_copy(update=limits)})
