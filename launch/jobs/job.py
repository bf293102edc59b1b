"""Videos to make, once they have passed every check."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.request import Task
from launch.jobs.config import JobConfig
from launch.jobs.folder import JobFolder
from launch.jobs.options import Options
from launch.process.signals import say
from parallel.degrees import Degrees


@dataclass(frozen=True)
class Job:
    """Videos to make that have passed every check. Plain data, which travels to other machines."""

    config: JobConfig
    """What the engine takes: the model's path is a folder of this machine, and nothing is left open."""
    given: JobConfig
    """As it was read, for whoever finds the model elsewhere or has another number of ranks."""
    tasks: Sequence[Task]
    options: Options
    """With all prompts in it."""
    notes: Sequence[str] = ()
    """Lines for the user, before it starts."""
    folder: JobFolder | None = None
    """Of its checkpoints."""
    fallback: JobFolder | None = None
    """Of those that the disk of the first folder did not take."""
    finished: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    """Reports of videos that were made before it broke off, by the index of the task."""
    sets_aside: bool = False
    """In its folder is an earlier run that it does not go on with, and that is kept under another name."""

    @property
    def degrees(self) -> Degrees:
        """The layout of the ranks that will make them."""
        return self.config.parallel.degrees

    @property
    def model_path(self) -> str:
        """As it was given, since each machine may have a model of the hub in another folder."""
        return self.given.model.path

    @property
    def grace_seconds(self) -> float:
        """What SIGTERM leaves it to pause; 0 where nobody has asked for checkpoints of steps."""
        return self.config.checkpoint.grace_seconds if self.folder and self.config.checkpoint.every else 0.0

    @property
    def tasks_left(self) -> list[Task]:
        """The tasks that are not finished."""
        return [task for index, task in enumerate(self.tasks) if index not in self.finished]

    def with_finished(self, indices: Sequence[int]) -> Job:
        """The same job on a rank that is told by the first one which tasks are finished."""
        return replace(self, finished={index: self.finished.get(index, {}) for index in indices})

    def all_reports(self, made: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The reports of all videos in order, also of those that an earlier run has made.

        Args:
            made: the reports of the tasks that were left.
        """
        new = iter(made)
        return [self.finished.get(index) or next(new) for index in range(len(self.tasks))]

    @contextmanager
    def at_work(self, rank: int) -> Iterator[None]:
        """The context in which the videos are made. On the first rank, the job is written into its folder, from which a
        later run can resume it, and the folder is locked until the block ends. Elsewhere it does nothing.

        Raises:
            InvalidInput: another run is at work there.
        """
        if self.folder is None or rank != 0:
            yield
            return
        for folder in self._folders if self.sets_aside else ():
            if folder.holds_job:
                folder.set_aside()
        with self.folder.hold():
            with suppress(OSError):  # of a disk that the run may wait for
                self._describe_in(self.folder)
            try:
                yield
            finally:
                self._describe_where_begun()

    def _describe_in(self, folder: JobFolder) -> None:
        # a later run may have another number of ranks, so the layout is kept as it was given
        folder.write(self.options, self.config.model_copy(update={"parallel": self.given.parallel}))

    def _describe_where_begun(self) -> None:
        """Write the job into folders that have got checkpoints and could not, or had not to, hold it before."""
        for folder in self._folders:
            if folder.holds_state and not folder.holds_job:
                with suppress(OSError):
                    self._describe_in(folder)

    @contextmanager
    def hint_unless_finished(self, options: str = "") -> Iterator[None]:
        """At the end of the block, say how to resume the run if it has left something to resume from.

        Args:
            options: of the command that was run, which say where it goes on.
        """
        try:
            yield
        finally:
            self._describe_where_begun()  # in case that the first rank had no time to
            begun = [folder for folder in self._folders if folder.holds_state and folder.holds_job]
            if begun:  # the newest checkpoint is in the last one
                say(f"go on with: lockstep resume {shlex.quote(str(begun[-1].path))} {options}".rstrip())
            elif self.folder and not self.given.checkpoint.every:
                self.folder.remove_unless_begun()

    def clean_up(self) -> None:
        """Remove the folders of checkpoints, once all files are written."""
        for folder in self._folders:
            folder.remove()

    @property
    def _folders(self) -> list[JobFolder]:
        return [folder for folder in (self.folder, self.fallback) if folder is not None]

    @property
    def paths(self) -> list[Path]:
        """All files and folders that it reads or writes."""
        found: list[Path | None] = []
        for task in self.tasks:
            outputs, request = task.outputs, task.request
            found += [outputs.video, outputs.report, outputs.latents, outputs.checkpoint]
            found += [request.image, request.last_image]
        return [path for path in found if path is not None]
