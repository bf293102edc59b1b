"""The folder beside a video from which its job can be resumed: checkpoints, the options and the configuration."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from engine.checkpoints.match import FORMAT, FORMAT_KEY, differences, must_match, written_under
from engine.checkpoints.names import DONE
from engine.config import Config
from engine.errors import InvalidInput
from engine.request import Task
from engine.storage.files import StagedFiles, try_lock
from engine.storage.private import create_private_file, make_private_folder
from launch.jobs.fallback import fallback_path
from launch.jobs.options import Options, options_from_json, options_to_json

_CONFIG, _OPTIONS, _LOCK = "config.yaml", "job.json", "lock"
_SECTIONS = ("parallel", "runtime", "checkpoint", "ray")
_PATHS = ("image", "last_image", "output", "report", "latents", "fallback")


@dataclass(frozen=True)
class JobFolder:
    """The folder of one job; each of its videos has a subfolder."""

    path: Path

    @classmethod
    def beside(cls, video: Path) -> JobFolder:
        """The folder of a job.

        Args:
            video: its file, or, for several videos, the name that theirs are made from.
        """
        return cls(video.with_suffix(".checkpoint"))

    @classmethod
    def all_of(cls, options: Options) -> list[JobFolder]:
        """The folder of a job, and the one for what the disk of the first did not take."""
        paths = (cls.beside(options.video_path).path, fallback_path(options))
        return [cls(path) for path in paths if path is not None]

    def write(self, options: Options, config: Config) -> None:
        """Write the options and the configuration of a checked job: what it takes, beside the model, to start it again.

        Raises:
            OSError: the folder cannot be written.
        """
        absolute = {name: Path.cwd() / value for name in _PATHS if (value := getattr(options, name)) is not None}
        whole = replace(
            options, **absolute, overrides=(), videos=[Path.cwd() / video for video in options.videos], like=None
        )
        self._make()
        with StagedFiles() as files:
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            files.stage(self.path / _CONFIG, private=True).write_text(text, encoding="utf-8")
            files.stage(self.path / _OPTIONS, private=True).write_text(options_to_json(whole, indent=1))

    def read(self, overrides: Sequence[str]) -> Options:
        """The options of the job, to resume it.

        Args:
            overrides: keys of its configuration to change, as ``key=value``.

        Raises:
            InvalidInput: there is no job in the folder, it is not where it was, or a key would make another video.
        """
        for override in overrides:
            if override.partition("=")[0].strip().partition(".")[0] not in _SECTIONS:
                raise InvalidInput(
                    f"--set {override} might make another video than the one that was begun: a resumed run takes keys "
                    f"of {', '.join(_SECTIONS)} alone."
                )
        try:
            begun_with = options_from_json((self.path / _OPTIONS).read_text())
            options = replace(begun_with, config=str(self.path / _CONFIG), overrides=tuple(overrides))
        except (OSError, ValueError, TypeError, KeyError):
            raise InvalidInput(
                f"{self.path} holds no job that could be resumed: give the folder that ends in .checkpoint."
            ) from None
        begun = JobFolder.beside(options.video_path).path
        own = [path.resolve() for path in (begun, fallback_path(options)) if path is not None]
        if self.path.resolve() not in own:  # else the job would start anew there
            raise InvalidInput(f"{self.path} has been moved or copied from {begun}: put it back there to go on.")
        return options

    def _make(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)  # the user's, with the umask's mode
        make_private_folder(self.path)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the folder against other runs until the block ends or the process does. Where the disk takes no file,
        nothing is locked: the run waits for it later, if it has to.

        Raises:
            InvalidInput: another run is at work here.
        """
        with ExitStack() as closing:
            with suppress(OSError):
                self._make()
                create_private_file(self.path / _LOCK)
                self._lock(closing)
            yield

    def refuse_if_running(self) -> None:
        """Refuse a folder that another run has locked.

        Raises:
            InvalidInput: another run is at work here.
        """
        with suppress(OSError), ExitStack() as closing:  # there is none, or none that we may read
            self._lock(closing)  # and release it at once: the first rank will hold it

    def await_end(self, timeout_seconds: float) -> None:
        """Wait until a run that was ended has unlocked the folder: a process that is killed takes a moment to end.

        Raises:
            InvalidInput: it is still locked after that time.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                return self.refuse_if_running()
            except InvalidInput:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _lock(self, closing: ExitStack) -> None:
        """Lock the folder until ``closing`` ends, and where that is by the end of the process, the system does it.

        The file is opened for reading where that will do: one that is open for writing keeps a disk from being
        remounted read-only or checked. A network file system locks no such file.

        Raises:
            InvalidInput: another run has locked it. OSError: there is no such file, or none that may be read.
        """
        for mode in ("rb", "r+b"):
            file = closing.enter_context((self.path / _LOCK).open(mode))
            try:
                locked = try_lock(file.fileno())
            except OSError:
                continue  # without locks at all, two runs of the same video are not noticed there
            if not locked:
                raise InvalidInput(f"A run that still lives is writing to {self.path}: wait until it ends, or stop it.")
            return

    def refuse_if_begun(self, also_without_state: bool) -> None:
        """Refuse to start a job anew where one can be resumed.

        Args:
            also_without_state: refuse where a job has left nothing but its options, too.

        Raises:
            InvalidInput: the folder holds a job, or its path is that of a file.
        """
        if self.holds_job and (also_without_state or self.holds_state):
            raise InvalidInput(
                f"{self.path} holds a run that was broken off: go on with `lockstep resume {self.path}`, or delete it."
            )
        if self.path.exists() and not self.path.is_dir():
            raise InvalidInput(f"{self.path} is in the place of the checkpoints' folder: remove it.")

    def set_aside(self) -> None:
        """Rename the folder, so that another job can begin in its place.

        Raises:
            InvalidInput: another run is at work here. OSError: it cannot be renamed.
        """
        self.refuse_if_running()
        self.path.rename(self.aside)

    @property
    def aside(self) -> Path:
        """The name that :meth:`set_aside` gives the folder: ``out.earlier-1.checkpoint``, or the next free number."""
        names = (self.path.with_name(f"{self.path.stem}.earlier-{n}{self.path.suffix}") for n in itertools.count(1))
        return next(name for name in names if not name.exists())

    def finished(self, tasks: Sequence[Task]) -> dict[int, dict[str, Any]]:
        """The run reports of those tasks whose files are all written, by the task's index."""
        found = {}
        for index, task in enumerate(tasks):
            done = task.outputs.checkpoint and task.outputs.checkpoint / DONE
            if done and done.is_file():
                found[index] = json.loads(done.read_text())
        return found

    def refuse_if_changed(self, config: Config, tasks: Sequence[Task]) -> None:
        """Refuse to resume from checkpoints of other conditions.

        Raises:
            InvalidInput: a checkpoint was made with another model, image, or version of a package or of Lockstep.
        """
        for task in tasks:
            folder, before = task.outputs.checkpoint, written_under(task.outputs.checkpoints)
            if before is None:
                continue
            if before.get(FORMAT_KEY) != FORMAT:
                raise InvalidInput(
                    f"The checkpoint in {folder} was written by another version of Lockstep, in a format that this one "
                    f"does not read: resume it with that version, or delete {self.path} and start anew."
                )
            if changed := differences(before, must_match(config, task.request)):
                raise InvalidInput(
                    f"The checkpoint in {folder} cannot be continued, for {changed[0]}: bring that back, or delete "
                    f"{self.path} and start anew."
                )

    def refuse_if_foreign(self) -> None:
        """Refuse a folder that is none of ours: it would be removed once the job is finished.

        Raises:
            InvalidInput: it holds files, and none of a job.
        """
        ours = (self.path / name for name in (_OPTIONS, _CONFIG, _LOCK))
        with suppress(OSError):  # there is no folder, or it cannot be listed, which is said where it is written to
            if any(self.path.iterdir()) and not any(file.exists() for file in ours):
                raise InvalidInput(
                    f"{self.path}, where checkpoints would be written, holds other files: give another --output."
                )

    @property
    def holds_job(self) -> bool:
        """Whether a job has begun here, be there a checkpoint or not."""
        return (self.path / _OPTIONS).exists()

    def remove(self) -> None:
        """Remove the folder, once all files of the job are written."""
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_unless_begun(self) -> None:
        """Remove the folder, unless there is a checkpoint or a finished video to resume from."""
        if not self.holds_state:
            self.remove()

    @property
    def holds_state(self) -> bool:
        """Whether there is a checkpoint, or a finished video of a list, to go on from."""
        with suppress(OSError):  # its disk is away
            return any(self.path.glob(f"*/{DONE}")) or any(self.path.glob("*/step-*/rank-*"))
        return False
