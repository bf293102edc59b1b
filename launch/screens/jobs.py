"""What `lockstep jobs JOB` prints: everything of one job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from rich.text import Text

from launch.queue.records import GangRecord, JobRecord
from launch.screens import job_words as words
from launch.screens.console import draws_unicode, make_console
from launch.screens.job_words import moment, one_line
from launch.screens.stages import stage_in_words


def print_job(job: JobRecord, gangs: Sequence[GangRecord], now: float, stream: IO[str]) -> None:
    """Print everything about one job; empty lines are left out, and long text loses its middle.

    Args:
        now: unix seconds.
    """
    console = make_console(stream)
    options, progress = job.options, job.progress
    readable = "" if job.damage and "its options" in job.damage else None
    lines = [
        ("job", str(job.id)),
        ("state", job.described_state),
        ("damage", job.damage or ""),
        ("error", job.error or ""),
        ("kept", words.way_on(job)),
        ("prompt", job.prompt),
        ("negative", options.negative_prompt),
        ("seed", str(options.seeds[0])),
        ("image", str(options.image or "")),
        ("last image", str(options.last_image or "")),
        ("video", str(job.video) if readable is None else readable),
        ("report", str(options.report_path) if readable is None else readable),
        ("latents", str(options.latents or "")),
        ("model", job.model),
        ("config", options.config),
        ("submitted", moment(job.submitted)),
        ("started", moment(job.started)),
        ("ended", moment(job.ended)),
        ("waited", words.waited(job, now)),
        ("ran", words.ran(job, now)),
        ("gang", words.gang_of(job, gangs)),
        ("attempts", str(job.attempts)),
        ("mishaps", words.mishaps(job)),
        *(("returned", words.returned(each)) for each in job.returns),
        ("phase", stage_in_words(progress.phase) if progress and not job.state.is_final else ""),
        ("step", words.steps(job)),
        ("timeline", words.timeline(job, draws_unicode(console))),
        ("left", words.left(job)),
    ]
    for label, value in lines:
        if value:
            console.print(Text.assemble((f"{label:<11}", "bold"), one_line(value)), soft_wrap=True)  # paths stay whole
    for model in words.unserved([job], gangs):
        console.print(Text(words.hint(model)))
