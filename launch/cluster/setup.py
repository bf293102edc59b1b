"""What a gang is to load, and a job as a gang can do it: both checked before anything starts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.errors import InvalidInput
from launch.gang.places import machines_of
from launch.jobs.checked import check_work
from launch.jobs.config import load_job_config
from launch.jobs.folder import JobFolder
from launch.jobs.job import Job
from launch.jobs.options import Options
from launch.jobs.preparation import prepare
from launch.queue.records import JobRecord
from parallel.place import Place


@dataclass(frozen=True)
class Setup:
    """What `cluster up` was given."""

    config: str
    overrides: Sequence[str] = ()
    ranks: int | None = None

    def job(self, ranks: int | None, nodes: Sequence[str] = ()) -> Job:
        """What the gang loads: a job without videos.

        Args:
            ranks: the world size, or None for what the configured degrees multiply to.
            nodes: of each rank, once they are known.

        Raises:
            InvalidInput: it cannot work.
        """
        given = load_job_config(self.config, self.overrides)
        if given.parallel.data > 1:
            raise InvalidInput(
                f"parallel.data is {given.parallel.data}, but a gang makes one video at a time: use parallel.data=1, "
                "and bring up as many gangs, which share the queue."
            )
        count, part = machines_of(nodes) if nodes else (None, None)
        place = Place(ranks, local_ranks=part, nodes=count, elsewhere=True)
        work = check_work(given, (), place, announce=lambda line: None)
        return Job(work.config, given, (), Options(self.config), work.notes)


def fits(record: JobRecord, gang: Job) -> bool:
    """Whether the job wants the model that the gang has loaded."""
    loaded = gang.config.model.model_dump(mode="json") | {"path": gang.model_path}
    return loaded == json.loads(json.dumps(record.config["model"]))


def prepare_for(record: JobRecord, gang: Job, nodes: Sequence[str], await_seconds: float) -> Job:
    """A job of the queue, checked for the gang: layout, devices and Ray's limits are the gang's, all else its own.

    Args:
        gang: what the gang has loaded.
        nodes: of each rank.
        await_seconds: for a run that was ended to let go of the job's folder.

    Raises:
        InvalidInput: it cannot work.
        StillAtWork: somebody is still at work on it.
    """
    folder = JobFolder.beside(record.options.video_path)
    try:
        folder.await_end(await_seconds)
    except InvalidInput as error:
        raise StillAtWork(str(error)) from None
    overrides = [
        f"parallel={gang.config.parallel.model_dump_json()}",
        f"runtime.device={gang.config.runtime.device}",
        f"runtime.attention={gang.config.runtime.attention}",
        f"ray={gang.config.ray.model_dump_json()}",
    ]
    count, part = machines_of(nodes)
    with tempfile.TemporaryDirectory(prefix="lockstep-") as scratch:
        file = Path(scratch) / "config.yaml"
        file.write_text(record.config_json, encoding="utf-8")
        options = replace(record.options, config=str(file), overrides=overrides)
        # also the first time: a job that is begun in the queue can be paused, wherever its checkpoints are due
        place = Place(gang.degrees.world_size, local_ranks=part, nodes=count, elsewhere=True)
        return prepare(options, place, resume=True)


class StillAtWork(Exception):
    """A process that lost the job has not ended yet, or somebody makes the same video outside of the queue."""
