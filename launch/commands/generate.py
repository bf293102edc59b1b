"""The commands `generate` and `resume`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace

from launch.commands import options as opt
from launch.commands.fallback import with_fallback
from launch.commands.ranks import refuse_address_without_ray
from launch.commands.shared import taking
from launch.commands.video_options import video_options
from launch.jobs.checked import announce
from launch.jobs.folder import JobFolder
from launch.jobs.job import Job
from launch.jobs.options import Options
from launch.jobs.preparation import prepare
from launch.jobs.resuming import Resume, choose_resume
from launch.process.running import discard_stdout
from launch.ranks.place import Launcher, find_place
from launch.ranks.program import run_on_ranks
from launch.ranks.rank import summarise
from launch.ranks.videos import finish_made, make_videos
from parallel.place import Place


@taking(video_options)
def generate(
    options: Options,
    ranks: opt.Ranks = None,
    goal: opt.LayoutGoal = None,
    launcher: opt.LauncherName = None,
    ray_address: opt.RayAddress = None,
    resume: opt.ResumeChoice = None,
) -> int:
    """Generate videos from prompts, on one or more processes of this machine or of a Ray cluster."""
    options = with_fallback(options, None)
    if goal is not None:
        options = replace(options, overrides=(*options.overrides, f"parallel.goal={goal}"))
    return _make(lambda: options, ranks, launcher, ray_address, choose_resume(resume, os.environ))


def resume(
    folder: opt.Folder,
    ranks: opt.Ranks = None,
    set_: opt.Overrides = None,
    launcher: opt.LauncherName = None,
    ray_address: opt.RayAddress = None,
) -> int:
    """Go on with a run that broke off, from its newest checkpoint; on another number of ranks if need be."""
    return _make(lambda: JobFolder(folder).read(set_ or ()), ranks, launcher, ray_address, Resume.FOLDER)


def _make(
    read: Callable[[], Options],
    ranks: int | None,
    launcher: Launcher | None,
    ray_address: str | None,
    resume: Resume,
) -> int:
    """Make the videos of a job, as a rank or as a launcher. Returns the exit code."""
    refuse_address_without_ray(launcher, ray_address)
    place = find_place(launcher, ranks)
    if launcher is Launcher.RAY:
        return _run_on_ray(read(), ranks, ray_address, resume)
    if place.rank is not None:
        return run_on_ranks(place, lambda place: prepare(read(), place, resume), make_videos, summarise)
    job = prepare(read(), place, resume)
    if not job.tasks_left:
        return _say_made(job)
    grace_seconds = job.grace_seconds
    return run_on_ranks(
        place, lambda place: job, make_videos, summarise, Job.hint_unless_finished, lambda job: grace_seconds
    )


def _run_on_ray(options: Options, ranks: int | None, address: str | None, resume: Resume) -> int:
    """Check a job, then run it on a Ray cluster. Returns the exit code."""
    from launch.gang.address import check_address

    job = prepare(options, Place(ranks, elsewhere=True), resume)
    if not job.tasks_left:
        return _say_made(job)
    repeated = Resume.AUTO if resume in (Resume.AUTO, Resume.ONLY) else Resume.FOLDER
    named = job.options  # each attempt writes the same files

    def check(place: Place, again: bool) -> Job:
        return prepare(named, place, repeated if again else resume)

    check_address(address)
    again = ["--launcher=ray"]
    again += [f"--ranks={ranks}"] if ranks is not None else []
    again += [f"--ray-address={address}"] if address else []
    with job.hint_unless_finished(shlex.join(again)):
        from launch.gang.run import run_on_ray  # imports ray, which takes seconds

        return run_on_ray(job, check, ranks, address)


def _say_made(job: Job) -> int:
    reports = finish_made(job, announce)
    try:
        summarise(reports, sys.stdout)
    except OSError:  # a full or closed stdout; the files are written
        discard_stdout()
    return 0
