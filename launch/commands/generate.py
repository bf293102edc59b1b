"""The commands `generate` and `resume`."""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import InvalidInput
from launch.commands import options as opt
from launch.jobs.folder import JobFolder
from launch.jobs.job import Job
from launch.jobs.options import Options
from launch.jobs.preparation import prepare
from launch.ranks.place import Launcher, find_place
from launch.ranks.program import run_on_ranks
from launch.ranks.rank import summarise
from launch.ranks.videos import make_videos
from parallel.place import Place


@opt.taking(opt.video_options)
def generate(
    options: Options,
    ranks: opt.Ranks = None,
    launcher: opt.LauncherName = None,
    ray_address: opt.RayAddress = None,
) -> int:
    """Generate videos from prompts, on one or more processes of this machine or of a Ray cluster."""
    return _make(lambda: options, ranks, launcher, ray_address)


def resume(
    folder: opt.Folder,
    ranks: opt.Ranks = None,
    set_: opt.Overrides = None,
    launcher: opt.LauncherName = None,
    ray_address: opt.RayAddress = None,
) -> int:
    """Go on with a run that broke off, from its newest checkpoint; on another number of ranks if need be."""
    return _make(lambda: JobFolder(folder).read(set_ or ()), ranks, launcher, ray_address, resume=True)


def _make(
    read: Callable[[], Options],
    ranks: int | None,
    launcher: Launcher | None,
    ray_address: str | None,
    resume: bool = False,
) -> int:
    """Make the videos of a job, as a rank or as a launcher. Returns the exit code."""
    if launcher is not Launcher.RAY and ray_address is not None:
        named = (launcher or Launcher.LOCAL).value
        raise InvalidInput(f"--ray-address is {ray_address}, but --launcher is {named}: add --launcher ray.")
    place = find_place(launcher, ranks)
    if launcher is Launcher.RAY:
        options = read()
        return _run_on_ray(lambda place, resume: prepare(options, place, resume), ranks, ray_address, resume)
    return run_on_ranks(
        place, lambda place: prepare(read(), place, resume), make_videos, summarise, Job.hint_unless_finished
    )


def _run_on_ray(check: Callable[[Place, bool], Job], ranks: int | None, address: str | None, resume: bool) -> int:
    """Check a job, then run it on a Ray cluster. Returns the exit code."""
    from launch.gang.address import check_address

    job = check(Place(ranks, elsewhere=True), resume)
    check_address(address)
    with job.hint_unless_finished():
        from launch.gang.run import run_on_ray  # imports ray, which takes seconds

        return run_on_ray(job, check, ranks, address, resume)
