"""What a gang loads, and the jobs that it can run: both checked before anything starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.errors import InvalidInput
from launch.gang.bundles import machines_of
from launch.jobs.checked import check_work
from launch.jobs.config import load_job_config
from launch.jobs.folder import JobFolder
from launch.jobs.job import Job
from launch.jobs.options import Options
from launch.jobs.preparation import prepare
from launch.jobs.resuming import Resume
from launch.process.scratch import scratch_folder
from launch.queue.records import JobRecord
from parallel.place import Place


@dataclass(frozen=True)
class Setup:
    """The arguments of `lockstep cluster up`."""

    config: str
    overrides: Sequence[str] = ()
    ranks: int | None = None

    def job(self, ranks: int | None, nodes: Sequence[str] = ()) -> Job:
        """What the gang loads, as a job without videos.

        Args:
            ranks: the world size, or None for what the configured degrees multiply to.
            nodes: the node id of each rank, once they are known.

        Raises:
            InvalidInput: the model or the layout cannot work.
        """
        notes: list[str] = []
        given = load_job_config(self.config, self.overrides, notes.append)
        if given.parallel.data > 1:
            raise InvalidInput(
                f"parallel.data is {given.parallel.data}, but a gang makes one video at a time: use parallel.data=1, "
                "and bring up as many gangs, which share the queue."
            )
        machines, ranks_each = machines_of(nodes) if nodes else (None, None)
        place = Place(ranks, local_ranks=ranks_each, nodes=machines, elsewhere=True)
        work = check_work(given, (), place, announce=lambda line: None)
        return Job(work.config, given, (), Options(self.config), [*notes, *work.notes])


def fits(record: JobRecord, gang: Job) -> bool:
    """Whether the job is for the model that the gang has loaded.

    Args:
        gang: what the gang has loaded.
    """
    loaded = gang.config.model.model_dump(mode="json") | {"path": gang.model_path}
    return loaded == json.loads(json.dumps(record.config["model"]))


def prepare_for(record: JobRecord, gang: Job, nodes: Sequence[str], await_seconds: float) -> Job:
    """A job of the queue, checked for a gang: layout, devices and section ``ray`` are the gang's, the rest the job's.

    Args:
        gang: what the gang has loaded.
        nodes: the node id of each rank.
        await_seconds: how long to wait for a killed run to release the job's folder.

    Raises:
        InvalidInput: the job cannot work.
        FolderInUse: another run is still writing to the job's folder.
    """
    folder = JobFolder.beside(record.options.video_path)
    try:
        folder.await_end(await_seconds)
    except InvalidInput as error:
        raise FolderInUse(str(error)) from None
    overrides = [
        f"parallel={gang.config.parallel.model_dump_json()}",
        f"runtime.device={gang.config.runtime.device}",
        f"runtime.attention={gang.config.runtime.attention}",
        f"ray={gang.config.ray.model_dump_json()}",
    ]
    machines, ranks_each = machines_of(nodes)
    with scratch_folder() as scratch:
        file = scratch / "config.yaml"
        file.write_text(record.config_json, encoding="utf-8")
        options = replace(record.options, config=str(file), overrides=overrides)
        # also for the first attempt: without a folder the job could not be paused
        place = Place(gang.degrees.world_size, local_ranks=ranks_each, nodes=machines, elsewhere=True)
        return prepare(options, place, Resume.FOLDER)


class FolderInUse(Exception):
    """A process that lost the job has not ended yet, or a run outside of the queue makes the same video."""
