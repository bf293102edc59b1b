"""What a person types on the queue, and what is said to it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.jobs.config import load_job_config
from launch.jobs.folder import JobFolder
from launch.jobs.options import Options
from launch.queue.records import GangState, JobProgress, NewJob, State, Wish
from launch.queue.store import Queue
from launch.screens import job_tables as listing
from launch.screens import watch as watching
from tests.support.small_model import CONFIG, ROOT
from tests.support.typed import Command


@pytest.fixture
def small(tiny_checkpoint: Path) -> list[str]:
    """A configuration that is quickly checked."""
    keys = (f"model.path={tiny_checkpoint}", "sampling.steps=8", "sampling.frames=5", "sampling.height=32")
    return [str(CONFIG), *(f"--set={key}" for key in (*keys, "sampling.width=32"))]


def new_job(name: str, folder: Path, prompt: str = "a circle") -> NewJob:
    config = {"model": {"path": "/models/wan"}, "ray": {"max_restarts": 3}}
    return NewJob(Options("/wan.yaml", (prompt,), output=folder / f"{name}.mp4"), config)


def begin(queue: Queue, *jobs: NewJob) -> str:
    """Submit jobs, of which a gang takes the first; its name."""
    queue.submit(jobs)
    gang = queue.register(4, "/models/wan", GangState.BUSY)
    assert queue.claim(gang, lambda job: True)
    return gang


PROGRESS = JobProgress("denoise step 3", 4, 8, "wwcs", 75.0)


def test_each_video_is_a_job_with_all_that_a_gang_needs(
    typed: Command, queue: Queue, small: list[str], tmp_path: Path
) -> None:
    (tmp_path / "more.txt").write_text("a square\n\n")
    arguments = ["--prompt=a circle", "--prompts=more.txt", "--seed=3", "--seed=4", "--negative-prompt=blurred"]
    settings = ["--set=parallel.data=16", "--set=cache.threshold=0.3", "--audit", "--latents=x.safetensors"]
    said = typed("submit", *small, *arguments, *settings, "--output=v/../w/out.mp4")
    assert said.code == 0, said.err
    assert said.out.splitlines() == [f"job {i + 1}: {tmp_path}/w/out-{i}.mp4" for i in range(4)]
    assert said.err.startswith("lockstep: no gang is up for ") and said.err.count("\n") == 1
    jobs = queue.jobs()
    assert [(job.prompt, job.options.seeds) for job in jobs] == [
        ("a circle", (3,)),
        ("a circle", (4,)),
        ("a square", (3,)),
        ("a square", (4,)),
    ]
    last = jobs[3]
    assert last.options.negative_prompt == "blurred"
    assert last.options.config == str(CONFIG)
    assert (last.options.prompts_file, last.options.overrides) == (None, ())
    assert (last.video, last.options.report_path) == (tmp_path / "w/out-3.mp4", tmp_path / "w/out-3.json")
    assert last.options.latents == tmp_path / "x-3.safetensors"
    overrides = [setting.removeprefix("--set=") for setting in (*small[1:], *settings[:2])]
    assert last.parsed_config == load_job_config(CONFIG, [*overrides, "runtime.audit=true"])
    assert last.model == small[1].removeprefix("--set=model.path=")
    assert not (tmp_path / "w").exists(), "submitting writes no video"


def test_what_cannot_be_made_is_not_taken(typed: Command, queue: Queue, small: list[str], tmp_path: Path) -> None:
    every = ["--prompt=a circle", "--output=out.mp4", "--set=checkpoint.every=2"]
    begun = JobFolder.beside(tmp_path / "begun.mp4")
    begun.path.mkdir()
    (begun.path / "job.json").write_text("{}")
    for arguments, words in (
        ([], ["--prompt"]),
        ([*every, "--seed=-1"], ["--seed", "-1"]),
        ([*every, "--set=sampling.stps=3"], ["sampling.stps", "sampling.steps"]),
        ([*every, "--set=sampling.frames=6"], ["6", "4n+1"]),
        ([*every, "--set=cache.probe_depth=3"], ["probe_depth", "3"]),
        ([*every, "--image=a.png"], ["a.png", "text alone"]),
        ([*every, "--output=out.avi"], ["out.avi", ".mp4"]),
        ([*every, "--output=begun.mp4"], ["begun.checkpoint", "lockstep resume"]),
        ([*every, "--prompt= "], ["--prompt"]),
        ([*every, "--ranks=2"], ["--ranks"]),
        ([*every, "--state=/proc/lockstep"], ["/proc/lockstep", "--state"]),
    ):
        said = typed("submit", *small, *arguments)
        assert (said.code, said.out) == (2, ""), said
        assert said.err.startswith("lockstep: ") and said.err.count("\n") == 1
        assert all(word in said.err for word in words), said.err
    assert not queue.folder.exists()
    assert typed("submit", *small, *every).code == 0
    again = typed("submit", *small, *every)
    assert again.code == 2 and "out.mp4 will be written by job 1" in again.err and again.err.count("\n") == 1
    assert len(queue.jobs()) == 1


def test_no_queue_and_no_job(typed: Command, queue: Queue, tmp_path: Path) -> None:
    commands = (["jobs"], ["jobs", "1"], ["watch", "1"], ["cancel", "1"], ["pause", "1"], ["unpause", "1"])
    for command in commands:
        said = typed(*command)
        assert (said.code, said.out) == (2, "")
        assert said.err == (
            f"lockstep: There is no queue in {tmp_path}/state: submit a job, or name its folder with --state.\n"
        )
        said = typed(*command, "--state=other")
        assert f"{tmp_path}/other" in said.err
    assert list(tmp_path.iterdir()) == []
    queue.register(1, "m")
    for command in commands[1:]:
        said = typed(*command)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("lockstep: There is no job 1 in ") and said.err.count("\n") == 1
        assert "'first'" in typed(command[0], "first").err
    said = typed("jobs")
    assert said.code == 0 and said.out.startswith("no jobs\n\ngang ")


def test_several_are_asked_and_each_is_answered(typed: Command, queue: Queue, tmp_path: Path) -> None:
    begin(queue, *(new_job(name, tmp_path) for name in "abc"))
    said = typed("pause", "1", "2")
    assert said.code == 0
    assert said.out == "job 1: running (pausing): it stops at its next step\njob 2: queued (paused)\n"
    assert typed("unpause", "2", "1").out == "job 2: queued\njob 1: running\n"
    said = typed("cancel", "9", "1", "3")
    assert said.code == 2
    assert said.out == "job 1: running (cancelling): it stops at its next step\njob 3: cancelled\n"
    assert said.err.startswith("lockstep: There is no job 9 in")
    assert [job.wish for job in queue.jobs()] == [Wish.CANCEL, Wish.RUN, Wish.CANCEL]
    for command, done in (("cancel", "cancelled"), ("pause", "paused"), ("unpause", "unpaused")):
        said = typed(command, "3")
        assert said.code == 2
        assert said.err == f"lockstep: Job 3 has already been cancelled: it cannot be {done} any more.\n"


def test_what_a_cancelled_job_leaves(typed: Command, queue: Queue, tmp_path: Path) -> None:
    """Nothing; but a folder that it has not made is somebody else's."""
    begin(queue, new_job("begun", tmp_path), new_job("new", tmp_path))
    queue.release(1, 1)
    for name in ("begun", "new"):
        (tmp_path / f"{name}.checkpoint").mkdir()
    assert typed("cancel", "1", "2").code == 0
    assert not (tmp_path / "begun.checkpoint").exists() and (tmp_path / "new.checkpoint").exists()


def test_a_list_for_a_pipe_has_every_column(typed: Command, queue: Queue, tmp_path: Path) -> None:
    prompt = "a circle " * 10 + "[bold]\n\x1b[31m end"
    error = "rank 3 failed in denoise step 3: " + "out of memory " * 30
    gang = begin(queue, new_job("a", tmp_path, prompt), new_job("b", tmp_path), new_job("c", tmp_path))
    queue.finish(1, 1, State.FAILED, error)
    assert queue.claim(gang, lambda job: True)
    queue.progress(2, 1, PROGRESS)
    said = typed("jobs")
    assert said.code == 0 and said.err == ""
    header, first, second, third, empty, gangs, row = said.out.splitlines()
    columns = ["job", "state", "step", "prompt", "attempts", "waited", "ran", "gang", "error"]
    assert header.split() == columns and empty == "" and gangs.split()[0] == "gang"
    assert "a circle " * 10 + "[bold] \N{REPLACEMENT CHARACTER}[31m end" in first
    assert first.endswith(error.strip()) and "\x1b" not in said.out
    assert second.split()[:6] == ["2", "running", "4/8", "a", "circle", "1"] and second.endswith(gang)
    assert third.split()[:5] == ["3", "queued", "a", "circle", "0"]
    assert row.startswith(gang) and "busy" in row and "/models/wan" in row


class Terminal(io.StringIO):
    """Someone sits at it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_list_on_a_terminal_fits(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    begin(queue, new_job("a", tmp_path, "a circle " * 20), new_job("b", tmp_path))
    queue.finish(1, 1, State.FAILED, "it was too large " * 20)
    listing.print_jobs(queue.jobs(), queue.gangs(), time.time(), terminal := Terminal())
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("…" in line for line in lines) == 1, "a job is a line, whose prompt and error are shortened"


def test_a_gang_that_is_needed_is_asked_for(typed: Command, queue: Queue, tmp_path: Path) -> None:
    wanted = "no gang is up for /models/wan: start one with lockstep cluster up CONFIG"
    queue.submit([new_job("a", tmp_path)])
    queue.register(1, "/models/other")
    assert all(wanted in typed(*command).out for command in (["jobs"], ["jobs", "1"]))
    queue.wish(1, Wish.PAUSE)
    assert wanted not in typed("jobs").out
    queue.wish(1, Wish.RUN)
    silent = Queue(queue.folder, lambda: time.time() - 3600).register(1, "/models/wan")
    said = typed("jobs")
    assert wanted in said.out and re.search(rf"{silent} +lost .* 1:0\d:\d\d ago", said.out)
    queue.register(1, "/models/wan")
    assert all(wanted not in typed(*command).out for command in (["jobs"], ["jobs", "1"]))


def test_everything_of_one_job(typed: Command, queue: Queue, tmp_path: Path) -> None:
    gang = begin(queue, new_job("a", tmp_path))
    queue.progress(1, 1, PROGRESS)
    queue.count_restart(1, 1)
    queue.count_restart(1, 1, preempted=True)

    def shown() -> dict[str, str]:
        said = typed("jobs", "1")
        assert said.code == 0 and said.err == ""
        return {line[:11].strip(): line[11:] for line in said.out.splitlines()}

    running = shown()
    assert running["state"] == "running" and running["gang"] == gang and running["seed"] == "0"
    assert running["timeline"] == "■■■· 3 computed, 1 skipped"
    assert (running["step"], running["phase"], running["left"]) == ("4/8", "denoising", "1:15")
    assert running["mishaps"] == "1 restart, 1 pre-emption"
    assert running["video"] == f"{tmp_path}/a.mp4" and running["report"] == f"{tmp_path}/a.json"
    assert "ended" not in running and "error" not in running
    queue.unregister(gang)
    assert "gang" not in shown()
    silent = Queue(queue.folder, lambda: time.time() - 3600)
    gang = silent.register(1, "/models/wan")
    assert silent.claim(gang, lambda job: True)
    assert shown()["gang"] == f"{gang} (lost)"
    error = "rank 0 failed in decode: " + "no memory " * 50 + "left"
    queue.finish(1, 2, State.FAILED, error)
    failed = shown()
    assert (failed["state"], failed["error"], failed["attempts"]) == ("failed", error, "2")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", failed["ended"])
    assert not {"phase", "left"} & set(failed)


def follow(queue: Queue, stream: io.StringIO, *changes: Callable[[], object]) -> list[str]:
    """Watch job 1 while changes are made one after the other, each once the one before has been seen."""
    looks, looked, look = 0, threading.Condition(), queue.job

    def count(id: int) -> object:
        nonlocal looks
        job = look(id)
        with looked:
            looks += 1
            looked.notify()
        return job

    def change() -> None:
        for each in changes:
            with looked:
                enough = looks + 2  # a look that began before the change tells nothing
                assert looked.wait_for(lambda enough=enough: looks >= enough, 60)  # type: ignore[misc]
            each()

    changing = threading.Thread(target=change)
    changing.start()
    queue.job = count  # type: ignore[method-assign, assignment]
    watching.watch(queue, 1, stream, look_seconds=0.01)
    changing.join()
    return stream.getvalue().splitlines()


def test_watching_without_a_terminal_is_a_line_for_each_change(queue: Queue, tmp_path: Path) -> None:
    queue.submit([new_job("a", tmp_path)])
    gangs = [queue.register(1, "/models/wan") for _ in range(2)]
    lines = follow(
        queue,
        io.StringIO(),
        lambda: queue.claim(gangs[0], lambda job: True),
        lambda: queue.progress(1, 1, JobProgress("load")),
        lambda: queue.progress(1, 1, PROGRESS),
        lambda: queue.progress(1, 1, JobProgress("denoise step 3", 4, 8, "wwcs", 20.0)),  # no change worth a line
        lambda: queue.release(1, 1),
        lambda: queue.claim(gangs[1], lambda job: True),
        lambda: queue.count_restart(1, 2),
        lambda: queue.wish(1, Wish.CANCEL),
        lambda: queue.finish(1, 2, State.FAILED, "rank 0 failed\nin decode"),
    )
    assert re.fullmatch(r"job 1 failed after \S+( s)?: rank 0 failed in decode", lines.pop())
    assert lines == [
        "job 1: queued",
        "job 1: running on gang-1, attempt 1",
        "job 1: running on gang-1, attempt 1, loading weights",
        "job 1: running on gang-1, attempt 1, denoising, step 4/8, 1 skipped",
        "job 1: queued, after 1 attempt",
        "job 1: running on gang-2, attempt 2, denoising, step 4/8, 1 skipped",
        "job 1: running on gang-2, attempt 2, denoising, step 4/8, 1 skipped, 1 restart",
        "job 1: running (cancelling) on gang-2, attempt 2, denoising, step 4/8, 1 skipped, 1 restart",
    ]


def test_watching_on_a_terminal_draws_the_timeline(queue: Queue, tmp_path: Path) -> None:
    gang = begin(queue, new_job("a", tmp_path))
    lines = follow(
        queue, Terminal(), lambda: queue.progress(1, 1, PROGRESS), lambda: queue.finish(1, 1, State.SUCCEEDED)
    )
    text = "\n".join(lines)
    assert "■■■· 3 computed, 1 skipped" in text and "about 1:15 left" in text
    assert f"running on {gang}, attempt 1, denoising, step 4/8" in text
    assert re.search(r"job 1 succeeded after \S+( s)?: ", lines[-1]) and lines[-1].endswith(f"{tmp_path}/a.mp4")


@pytest.mark.parametrize(("state", "code"), [(State.SUCCEEDED, 0), (State.FAILED, 1), (State.CANCELLED, 1)])
def test_the_exit_code_of_watching(state: State, code: int, typed: Command, queue: Queue, tmp_path: Path) -> None:
    begin(queue, new_job("a", tmp_path))
    queue.finish(1, 1, state, "no memory" if state is State.FAILED else None)
    said = typed("watch", "1")
    assert (said.code, said.err) == (code, "")
    assert said.out.startswith(f"job 1 {state} after ") and said.out.count("\n") == 1


def test_ctrl_c_leaves_the_job_running(queue: Queue, tmp_path: Path) -> None:
    begin(queue, new_job("a", tmp_path))
    before = queue.job(1)
    command = [sys.executable, "-m", "launch", "watch", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "job 1: running on gang-1, attempt 1\n"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err == "lockstep: interrupted, but job 1 goes on: stop it with lockstep cancel 1\n"
    assert queue.job(1) == before


def test_looking_and_asking_import_nothing_that_takes_seconds(queue: Queue, tmp_path: Path) -> None:
    queue.submit([new_job("a", tmp_path), new_job("b", tmp_path)])
    commands = [["jobs"], ["jobs", "1"], ["pause", "1"], ["unpause", "1"], ["cancel", "1"], ["watch", "1"]]
    commands += [["submit", str(CONFIG), "--prompt=x", "--set=sampling.frames=4"]]
    script = f"""
import sys
from launch.process.running import run
from launch.commands.app import app
codes = [run(app, command) for command in {json.dumps(commands)}]
from launch.queue.store import Queue
print(codes, sorted({{name.split(".")[0] for name in sys.modules}}), sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    codes, modules = done.stdout.splitlines()[-2:]
    assert codes == "[0, 0, 0, 0, 0, 1, 2]", done.stderr
    assert "sqlite3" in modules
    assert not re.search(r"'(torch|ray|numpy|diffusers|transformers|xfuser)'", modules)
