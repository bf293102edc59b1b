"""Gangs that serve the queue: what is submitted is made, whatever happens to gangs, and nothing is made twice."""

import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch.jobs.config import load_job_config
from launch.jobs.options import Options
from launch.queue.records import JobRecord, NewJob, State, Wish
from launch.queue.store import Queue
from tests.support.ray_nodes import PLAIN
from tests.support.shell import Shell, actions, finish, hashes, report_of, untimed
from tests.support.small_model import CONFIG

pytestmark = pytest.mark.timeout(900)
SECONDS = 300  # for anything to happen on a busy machine
LONG = ("sampling.frames=17", "sampling.height=128", "sampling.width=128", "checkpoint.every=2")


@dataclass
class Site:
    """A state folder, and the gangs that serve it."""

    shell: Shell
    address: str = ""
    queue: Queue = field(init=False)

    def __post_init__(self) -> None:
        self.queue = Queue(self.shell.folder / "state")

    def up(self, *arguments: str, gangs: int = 1) -> list[str]:
        """The names of new gangs, brought up at the same time."""
        options = [*self.shell.options(*arguments), "--state=state"]
        if self.address:
            options.append(f"--ray-address={self.address}")
        names = []
        for process in [self.shell.lockstep("cluster", "up", *options, **PLAIN) for _ in range(gangs)]:
            out, _ = finish(process)
            match = re.fullmatch(r"(gang-\d+) is ready: (\d+) ranks?, .*\n", out)
            assert match, out
            names.append(match[1])
        return names

    def submit(self, name: str, *settings: str, prompt: str = "x") -> int:
        """A job as `lockstep submit` would make it."""
        _, *sets = self.shell.options()
        config = load_job_config(CONFIG, [*(option.removeprefix("--set=") for option in sets), *settings])
        video = self.shell.folder / name
        options = Options(str(CONFIG), (prompt,), output=video, report=video.with_suffix(".json"))
        return self.queue.submit([NewJob(options, config.model_dump(mode="json"))])[0]

    def await_job(self, id: int, when: Callable[[JobRecord], bool]) -> JobRecord:
        """The job once it is as it should be."""
        deadline = time.monotonic() + SECONDS
        while not when(job := self.queue.job(id)):
            assert time.monotonic() < deadline and not job.state.is_final, (job, self.logs())
            time.sleep(0.05)
        return job

    def await_end(self, id: int) -> JobRecord:
        return self.await_job(id, lambda job: job.state.is_final)

    def await_step(self, id: int, step: int) -> JobRecord:
        return self.await_job(id, lambda job: job.progress is not None and job.progress.step >= step)

    def down(self) -> None:
        """End all gangs in good order, and see that nothing of them is left."""
        up = [gang.name for gang in self.queue.gangs()]
        assert up and sorted(self.queue.ask_down()) == sorted(up)
        deadline = time.monotonic() + SECONDS
        while self.queue.gangs():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)
        self.shell.await_nobody(seconds=30)

    def logs(self) -> str:
        return "\n".join(file.read_text() for file in sorted((self.shell.folder / "state" / "logs").iterdir()))

    def ranks(self) -> set[int]:
        """Processes of actors."""
        return {
            pid for pid in self.shell.family() if b"launch.cluster" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        }

    def await_files(self, stem: str, expected: list[str]) -> None:
        """A gang removes a checkpoint once the queue knows that the job is finished."""
        deadline = time.monotonic() + SECONDS
        while (found := self.files(stem)) != expected:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def files(self, stem: str) -> list[str]:
        """Finished, temporary and hidden ones, and folders."""
        return sorted(file.name for file in self.shell.folder.iterdir() if stem in file.name)


LAYOUT = ("--ranks=2", "--set=parallel.cfg=2")


def test_jobs_through_gangs_that_come_and_go(cluster: Any, shell: Shell) -> None:
    """First many jobs through one gang. Then it is told to end, and the next one goes on with what was under way."""
    site = Site(shell, cluster.address)
    first = site.submit("first.mp4")
    bad = site.submit("bad.mp4", "sampling.guidance=1.0")
    other = site.submit("other.mp4", "cache.method=interval")
    again = site.submit("again.mp4")
    local = shell.generate("--prompt=x", *LAYOUT, "--output=local.mp4")
    site.up(*LAYOUT)
    assert site.await_end(first).state is State.SUCCEEDED
    finish(local)  # before processes are counted
    ranks = site.ranks()
    assert len(ranks) == 2
    refused = site.await_end(bad)
    assert refused.state is State.FAILED and refused.error is not None
    assert "parallel.cfg is 2, but sampling.guidance is 1" in refused.error, "it fails alone, in one sentence"
    for job in (other, again):
        assert site.await_end(job).state is State.SUCCEEDED, "the queue goes on"
    assert hashes(shell.folder / "again.mp4") == hashes(shell.folder / "first.mp4"), "nothing came from the job between"
    assert report_of(shell.folder / "again.mp4")["totals"]["seconds"]["load"] == 0
    assert hashes(shell.folder / "first.mp4") == hashes(shell.folder / "local.mp4")
    assert actions(report_of(shell.folder / "first.mp4")) == actions(report_of(shell.folder / "local.mp4"))

    unwanted = site.submit("unwanted.mp4", *LONG, "sampling.steps=1000")
    site.await_step(unwanted, 3)
    site.queue.wish(unwanted, Wish.CANCEL)
    cancelled = site.await_end(unwanted)
    assert cancelled.state is State.CANCELLED and cancelled.progress and cancelled.progress.step < 1000
    assert site.files("unwanted") == []
    assert site.ranks() == ranks, "the model was loaded once"
    _assert_metrics(cluster, site)

    whole = site.submit("whole.mp4", *LONG, "sampling.steps=150")
    assert site.await_end(whole).state is State.SUCCEEDED
    paused = site.submit("paused.mp4", *LONG, "sampling.steps=150", "checkpoint.every=0")
    site.await_step(paused, 5)
    site.down()
    waiting = site.queue.job(paused)
    assert waiting.state is State.QUEUED and waiting.attempts == 1
    assert site.files("paused") == ["paused.checkpoint"]

    site.up(*LAYOUT)
    resumed = site.await_end(paused)
    assert resumed.state is State.SUCCEEDED and resumed.attempts == 2
    report = report_of(shell.folder / "paused.mp4")
    assert 0 < report["resumed_at"][0] < 150 and len(report["resumed_at"]) == 1
    site.await_files("paused", ["paused.json", "paused.mp4"])
    _assert_alike(shell, "paused", "whole")
    site.down()


@pytest.mark.slow
def test_a_job_whose_ranks_and_servers_die_goes_on(cluster: Any, shell: Shell) -> None:
    """A gang loses a rank, then its server; the next one loses its server in a way that nobody asked for."""
    site = Site(shell, cluster.address)
    site.up(*LAYOUT)
    whole = site.submit("whole.mp4", *LONG, "sampling.steps=300")
    assert site.await_end(whole).state is State.SUCCEEDED
    killed = site.submit("killed.mp4", *LONG, "sampling.steps=300")
    site.await_step(killed, 5)
    os.kill(min(site.ranks()), signal.SIGKILL)
    lost = site.await_job(killed, lambda job: job.restarts == 1).progress
    assert lost is not None
    site.await_step(killed, lost.step + 25)  # of the new ranks, which begin below that, and have saved since
    (gang,) = site.queue.gangs()
    os.kill(gang.pid, signal.SIGKILL)
    shell.await_nobody(seconds=30)

    site.up(*LAYOUT)
    finished = site.await_end(killed)
    assert (finished.state, finished.attempts, finished.losses) == (State.SUCCEEDED, 2, 1)
    assert finished.restarts == 1 and len(report_of(shell.folder / "killed.mp4")["resumed_at"]) == 2

    crashed = site.submit("crashed.mp4", *LONG, "sampling.steps=300")
    site.await_step(crashed, 5)
    (gang,) = site.queue.gangs()
    os.kill(gang.pid, signal.SIGSEGV)  # as Ray may do; nobody has asked for it, so the server comes back
    finished = site.await_end(crashed)
    assert (finished.state, finished.attempts, finished.losses) == (State.SUCCEEDED, 2, 1)
    for name in ("killed", "crashed"):
        _assert_alike(shell, name, "whole")
    site.down()


def _assert_alike(shell: Shell, name: str, other: str) -> None:
    one, two = (shell.folder / f"{stem}.mp4" for stem in (name, other))
    assert hashes(one) == hashes(two)
    assert actions(report_of(one)) == actions(report_of(two))


def _assert_metrics(cluster: Any, site: Site) -> None:
    """What Prometheus would read from the node of the server, after a second or two."""
    reports = [report_of(site.shell.folder / f"{name}.mp4") for name in ("first", "other", "again")]
    skipped = sum(sum(row["action"] == "skip" for row in r["steps"] if row["branch"] == "cond") for r in reports)
    wanted = {
        'lockstep_jobs_total{state="succeeded"}': 3,
        'lockstep_jobs_total{state="failed"}': 1,
        'lockstep_jobs_total{state="cancelled"}': 1,
        'lockstep_step_seconds_count{action="skipped"}': skipped,
        'lockstep_step_seconds_count{action="computed"}': 24 - skipped,
        "lockstep_skip_share{}": reports[2]["totals"]["skipped"] / 16,
        "lockstep_queue_length{}": 0,
    }
    deadline = time.monotonic() + SECONDS
    while (found := _scrape(cluster, wanted)) != wanted:
        assert time.monotonic() < deadline, (found, wanted)
        time.sleep(1)


def _scrape(cluster: Any, wanted: dict[str, float]) -> dict[str, float]:
    """The series of those names, reduced to the labels by which they are told apart."""
    found: dict[str, float] = {}
    for node in (cluster.head_node, *cluster.worker_nodes):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics_export_port}/metrics", timeout=10) as page:
                text = page.read().decode()
        except OSError:
            continue
        for name, labels, value in re.findall(r"^ray_(lockstep_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            kept = [label for label in labels.split(",") if label.startswith(("state=", "action="))]
            found[f"{name}{{{','.join(kept)}}}"] = float(value)
    return {name: found[name] for name in wanted if name in found}


@pytest.mark.slow
def test_two_gangs_share_fifty_jobs(shell: Shell) -> None:
    """Each with a Ray of its own. None is lost, and none is made twice."""
    site = Site(shell)
    names = site.up("--ranks=1", gangs=2)
    jobs = [site.submit(f"{number}.mp4", "sampling.steps=2", prompt=f"x {number}") for number in range(50)]
    records = [site.await_end(job) for job in jobs]
    assert {(record.state, record.attempts) for record in records} == {(State.SUCCEEDED, 1)}
    assert {record.gang for record in records} == set(names), "both had some"
    begun = [int(number) for number in re.findall(r"job (\d+), attempt", site.logs())]
    assert sorted(begun) == jobs
    for number in range(50):
        assert report_of(shell.folder / f"{number}.mp4")["request"]["prompt"] == f"x {number}"
    site.down()
    assert not list(shell.folder.glob("*.checkpoint")), "each is removed once the queue knows of the end"


@pytest.mark.slow
def test_a_gang_whose_own_ray_dies_starts_another(shell: Shell) -> None:
    """At once, and its job goes on from the newest checkpoint."""
    site = Site(shell)
    site.up("--ranks=1")
    job = site.submit("o.mp4", *LONG, "sampling.steps=150")
    site.await_step(job, 10)
    (raylet,) = [pid for pid in shell.family() if psutil.Process(pid).name() == "raylet"]
    killed = time.monotonic()
    os.kill(raylet, signal.SIGKILL)
    site.await_job(job, lambda record: record.restarts == 1)
    assert time.monotonic() - killed < 15
    record = site.await_end(job)
    assert (record.state, record.attempts, record.restarts) == (State.SUCCEEDED, 2, 1)
    assert report_of(shell.folder / "o.mp4")["resumed_at"][0] > 0
    assert "the server has lost its Ray: it is started again" in site.logs()
    site.down()


def test_what_a_gang_cannot_be(shell: Shell) -> None:
    """Refused before a process is started; or said in a line by the one that finds out."""
    _, err = finish(shell.lockstep("cluster", "up", *shell.options("--set=parallel.data=2"), "--state=s", **PLAIN), 2)
    assert len(untimed(err)) == 1 and "parallel.data is 2" in err and "as many gangs" in err
    assert not (shell.folder / "s").exists()
    nowhere = ["--ray-address=127.0.0.1:1", "--state=s"]
    _, err = finish(shell.lockstep("cluster", "up", *shell.options(*nowhere), **PLAIN), 2)
    assert "There is no Ray cluster at 127.0.0.1:1" in err.splitlines()[-1]
    shell.await_nobody(seconds=10)
    assert Queue(shell.folder / "s").gangs() == []
