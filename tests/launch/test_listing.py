"""Lists of jobs: whole where it matters whatever the texts are, chosen, for programs, and pruned."""

import io
import json
import os
import re
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.text import Text

from launch.queue.records import JobProgress, State, Wish
from launch.queue.store import Queue
from launch.screens import job_tables
from launch.screens.columns import GAP, Column, fit
from launch.screens.job_words import LONGEST, hint, one_line
from launch.screens.jobs import print_job
from launch.screens.watch import watch
from tests.launch.test_queue import fits, new_job
from tests.launch.test_queue_commands import Terminal
from tests.launch.test_queue_work import ENDED, Steps, fill, steps
from tests.support.typed import Command

assert steps  # a fixture

LONG = {
    "letters": "a circle " * 120_000,
    "one word": "x" * 60_000,
    "newlines": "a\nb\r\n" * 12_000,
    "tabs": "\ta" * 30_000,
    "wide": "円が動く" * 15_000,
    "combining": "e\u0301\u0323" * 20_000,
    "marks alone": "\u0301" * 60_000,
    "emoji": "👩\u200d👩\u200d👧\U0001f3fd🇩🇪" * 6_000,
    "control": "\x1b[2J\x07\x00\x9b31m\u202e" * 6_000,
    "spaces": " " * 60_000 + "end",
}


def drawn(queue: Queue, columns: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of `lockstep jobs` on a terminal of so many columns, or in a pipe."""
    monkeypatch.setenv("COLUMNS", str(columns or 80))
    stream = io.StringIO() if columns is None else Terminal()
    job_tables.print_jobs(queue.jobs(), queue.gangs(), time.time(), stream)
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).split("\n")


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_job_state_and_step_are_there_whatever_the_texts_are(
    text: str, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "é" * 120
    job = new_job(name, tmp_path, prompts=(text,), model=text, negative_prompt=text)
    queue.submit([replace(job, options=replace(job.options, config=text)), new_job("b", tmp_path, model=text)])
    gang = queue.register(100, text)
    assert queue.claim(gang, fits)
    queue.progress(1, 1, JobProgress("denoise step 3", 99, 100, "c" * 99, 75.0))
    queue.wish(1, Wish.CANCEL)
    with sqlite3.connect(queue.folder / "queue.db") as db:
        db.execute("UPDATE jobs SET error = ?, id = 123456 WHERE id = 1", (text.replace("\0", "\x01"),))
        db.execute("UPDATE gangs SET error = ?, host = ?", (text.replace("\0", "\x01"), text.replace("\0", "\x01")))
    for columns in (80, 40, 200, None):
        lines = drawn(queue, columns, monkeypatch)
        rows = [line for line in lines if line.startswith("123456")]
        assert len(rows) == 1 and rows[0].startswith("123456  running (cancelling)  99/100"), rows
        assert any(re.match(rf"{gang}  starting +100( |$)", line) for line in lines)
        assert len(lines) < 20 and sum(map(len, lines)) < 12_000
        if columns:
            assert max(map(cell_len, lines)) <= columns
        assert all(line.isprintable() or "\u200d" in line for line in lines)
    stream = io.StringIO()
    print_job(queue.job(123456), queue.gangs(), time.time(), stream)
    assert len(stream.getvalue()) < 7 * LONGEST
    queue.finish(123456, 1, State.FAILED, text)
    watch(queue, 123456, ended := io.StringIO())
    assert ended.getvalue().count("\n") == 1 and len(ended.getvalue()) < LONGEST + 100


def test_text_is_cut_in_its_middle_on_one_line() -> None:
    assert one_line(" a\n b\t c ") == "a b c"
    cut = one_line("begin " + "word " * 500_000 + "end", 100)
    assert len(cut) == 100 and cut.startswith("begin word") and cut.endswith("word end") and cut.count("…") == 1
    assert len(hint("x" * 10**6)) < 300


def test_columns_are_left_out_before_they_are_useless() -> None:
    def column(name: str, width: int, **more: Any) -> Column:
        return Column(name, [Text("x" * width)], **more)

    columns = [
        column("job", 3),
        column("prompt", 500, order=1, least=20),
        column("gang", 6, order=3),
        column("none", 0, order=2),
        column("error", 30, order=4, least=10),
    ]
    for width in range(3, 700):
        fitted = {column.name: size for column, size in fit(columns, width)}
        assert sum(fitted.values()) + GAP * (len(fitted) - 1) <= width and fitted["job"] == 3
        assert "none" not in fitted and fitted.get("gang", 6) == 6 and fitted.get("prompt", 20) >= 20
        assert ("prompt" in fitted) == (width >= 25)
        assert ("gang" in fitted) == (11 <= width < 25 or width >= 33), "what is short may use what is left"
    assert fitted == {"job": 3, "prompt": 500, "gang": 6, "error": 30}


def test_lists_are_chosen(queue: Queue, typed: Command, tmp_path: Path) -> None:
    queue.submit([new_job(str(number), tmp_path) for number in range(80)])
    gang = queue.register(1, "/models/wan")
    for id in range(1, 12):
        assert queue.claim(gang, fits)
        if id > 1:
            queue.finish(id, 1, State.FAILED if id % 2 else State.SUCCEEDED)

    def ids(*arguments: str) -> list[int]:
        said = typed("jobs", *arguments)
        assert (said.code, said.err) == (0, ""), said.err
        return [int(row[0]) for line in said.out.splitlines() if (row := line.split()) and row[0].isdigit()]

    assert ids("--state-is=failed") == [3, 5, 7, 9, 11]
    assert ids("--state-is", "FAILED", "--state-is", "running", "--last", "3") == [7, 9, 11]
    assert ids("--last=2") == [79, 80] and ids("--last=99999999999999999999") == list(range(1, 81))
    assert ids() == [1, *range(31, 81)], "one that runs is always shown"
    assert "and older ones: 5 failed, 19 queued, 5 succeeded; see them with --last N" in typed("jobs").out
    assert typed("jobs", "--state-is=cancelled").out.startswith("no jobs\n")
    for arguments, words in (
        (["--state-is=done"], ["done", "queued", "running", "succeeded", "failed", "cancelled"]),
        (["--last=0"], ["--last is 0", "1 or more"]),
        (["--last=-3"], ["--last is -3"]),
        (["--last=few"], ["few", "whole number"]),
        (["3", "--last=2"], ["leave them out", "job 3"]),
        (["3", "--state-is=failed"], ["leave them out", "job 3"]),
    ):
        said = typed("jobs", *arguments)
        assert said.code == 2 and said.out == "" and said.err.count("\n") == 1, said.err
        assert all(word in said.err for word in words), said.err


def test_json_is_one_document_with_everything(queue: Queue, typed: Command, tmp_path: Path) -> None:
    prompt = 'a "circle"\n\x1b[2J ä 円 ' * 5_000
    queue.submit([new_job(str(number), tmp_path, prompts=(prompt,)) for number in range(3)])
    odd = Path(os.fsdecode(b"/videos/\xff.mp4"))
    queue.submit([new_job("odd", output=odd)])
    gang = queue.register(2, "/models/wan")
    assert queue.claim(gang, fits)
    queue.progress(1, 1, JobProgress("denoise step 3", 4, 8, "wwcs", 75.0))
    queue.wish(1, Wish.PAUSE)
    with sqlite3.connect(queue.folder / "queue.db") as db:
        db.execute("UPDATE jobs SET options = '{' WHERE id = 3")
    said = typed("jobs", "--json")
    assert (said.code, said.err) == (0, "") and "\x1b" not in said.out
    document = json.loads(said.out)
    assert set(document) == {"schema", "jobs", "gangs"} and document["schema"] == 1
    first, second, damaged, last = document["jobs"]
    assert first["prompt"] == second["prompt"] == prompt
    shown = {"job": 1, "state": "running", "asked": "pause", "seed": 0, "video": f"{tmp_path}/0.mp4", "gang": gang}
    shown |= {"model": "/models/wan", "step": 4, "total_steps": 8, "skipped_steps": 1, "seconds_left": 75.0}
    assert {name: first[name] for name in shown} == shown and abs(first["started"] - time.time()) < 100
    assert (second["state"], second["asked"], second["step"], second["ended"]) == ("queued", None, None, None)
    assert damaged["state"] == "damaged" and "its options cannot be read" in damaged["damage"]
    assert damaged["prompt"] is damaged["video"] is damaged["seed"] is None and damaged["model"] == "/models/wan"
    assert last["video"] == str(odd)
    assert set(first) == set(damaged)
    documented = (Path(__file__).parents[2] / "docs/cluster.md").read_text()
    assert all(f"`{field}`" in documented for field in (*first, *document["gangs"][0]))
    assert document["gangs"][0]["gang"] == gang and document["gangs"][0]["state"] == "starting"
    assert [job["job"] for job in json.loads(typed("jobs", "--json", "--last=2").out)["jobs"]] == [3, 4]
    assert [job["job"] for job in json.loads(typed("jobs", "2", "--json").out)["jobs"]] == [2]
    assert json.loads(typed("jobs", "--json", "--state-is=failed").out)["jobs"] == []
    assert typed("jobs", "9", "--json").code == 2


def test_the_newest_of_twenty_thousand_long_jobs_are_read_alone(
    queue: Queue, tmp_path: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch, typed: Command
) -> None:
    fill(queue, ENDED, prompt="a circle " * 20)
    read, decode = list[int](), Queue.read
    monkeypatch.setattr(Queue, "read", lambda self, ids: read.extend(ids) or decode(self, ids))
    monkeypatch.setattr("launch.queue.submissions.Submissions.read", Queue.read)
    for arguments in ([], ["--last=50"], ["--state-is=succeeded"], ["--state-is=failed", "--state-is=succeeded"]):
        read.clear()
        steps.count = 0
        said = typed("jobs", *arguments)
        assert said.code == 0 and said.out.count("a circle") >= 50
        assert read == list(range(ENDED - 49, ENDED + 1))
        assert steps.count < ENDED * 40, "the index is counted, rows are not read"


def test_ended_jobs_and_logs_are_pruned(queue: Queue, typed: Command, tmp_path: Path) -> None:
    now = time.time()
    queue.submit([new_job(str(number), tmp_path) for number in range(6)])
    gang = queue.register(1, "/models/wan")
    for id in (1, 2, 3, 4):
        assert queue.claim(gang, fits)
        if id < 4:
            queue.finish(id, 1, State.FAILED if id == 2 else State.SUCCEEDED)
    for name in ("0.mp4", "0.json", "0.checkpoint"):
        (tmp_path / name).write_text("a result")
    logs = queue.folder / "logs"
    logs.mkdir()
    kept = [f"{gang}.log", f"{gang}-ray.log", "notes.txt", "gang-78.log"]
    for name in (*kept, "gang-77.log", "gang-77-ray.log", "starting-00ff.log"):
        (logs / name).write_text("")
        if name != "gang-78.log":
            os.utime(logs / name, (now - 1e7, now - 1e7))
    with sqlite3.connect(queue.folder / "queue.db") as db:
        db.execute("UPDATE jobs SET submitted = ? WHERE id < 7", (now - 1e7,))
        db.execute("UPDATE jobs SET ended = ? WHERE id IN (1, 2)", (now - 40 * 86400,))
        db.execute("UPDATE jobs SET state = 'asleep', ended = 'x' WHERE id = 6")
    said = typed("prune", "--older-than=30d", "--dry-run")
    assert (said.code, said.out) == (0, "would remove 3 jobs and 3 logs\n")
    assert len(queue.jobs()) == 6 and len(list(logs.iterdir())) == 7
    said = typed("prune", "--older-than", "30d")
    assert (said.code, said.out, said.err) == (0, "removed 3 jobs and 3 logs\n", "")
    assert [job.id for job in queue.jobs()] == [3, 4, 5]
    assert sorted(log.name for log in logs.iterdir()) == sorted(kept)
    assert (tmp_path / "0.mp4").exists() and (tmp_path / "0.checkpoint").exists(), "results are the user's"
    queue.finish(4, 1, State.SUCCEEDED)
    assert typed("prune", "--older-than=0s").out == "removed 2 jobs and 1 log\n"
    assert queue.submit([new_job("0", tmp_path)]) == [7], "a number is never used again"
    assert "There is no job 1 in" in typed("jobs", "1").err
    for age in ("30", "d", "-3d", "1.5h", "30 days", "", "9" * 12 + "w", "٣d"):
        said = typed("prune", f"--older-than={age}")
        assert (said.code, said.out) == (2, "") and said.err.count("\n") == 1 and "30d, 12h or 45m" in said.err, age
    assert typed("prune").code == 2


def test_pruning_gives_room_back_while_gangs_work(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(queue, 1000, prompt="long " * 2000)
    queue.submit([new_job("a", tmp_path)])
    gang = queue.register(1, "m")
    assert queue.claim(gang, fits)
    file, between = queue.folder / "queue.db", list[int]()
    before = file.stat().st_size
    changing = queue._database.changing

    def changing_watched(create: bool = False) -> Any:
        between.append(Queue(queue.folder).job(1001).id)
        Queue(queue.folder).renew_lease(gang)  # another process's turn: no lock is held between two batches
        return changing(create)

    monkeypatch.setattr(queue._database, "changing", changing_watched)
    assert queue.remove_ended(time.time()) == 1000
    assert len(between) == 6 and file.stat().st_size < before / 20
    monkeypatch.undo()
    queue.finish(1001, 1, State.SUCCEEDED)
