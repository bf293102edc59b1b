"""Files of ranks on other nodes come to the driver, and what it has goes there: both sides, without a Ray."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch.gang import fetching as fetching_module
from launch.gang import mirror as mirror_module
from launch.gang.fetching import Fetching
from launch.gang.mirror import Mirror


class Actor:
    """Answers as the actor of a rank with a mirror does, and at once."""

    def __init__(self, mirror: Mirror) -> None:
        for name in ("listing", "take", "read"):
            setattr(self, name, SimpleNamespace(remote=getattr(mirror, name)))


@pytest.fixture
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Mirror]]:
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "other"))
    monkeypatch.setattr(mirror_module, "PIECE_BYTES", 5)
    monkeypatch.setattr(fetching_module, "PIECE_BYTES", 5)
    monkeypatch.setattr(fetching_module, "_LOOK_SECONDS", 0.01)
    made = [Mirror(), Mirror()]
    yield made
    for mirror in made:
        mirror.remove()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


def start(home: Path, mirrors: list[Mirror], said: list[str] | None = None) -> Fetching:
    workers = {rank: Actor(mirror) for rank, mirror in enumerate(mirrors)}
    fetching = Fetching(workers, home, [home / "out", home / "out.json"], lambda answer: answer)
    fetching.send((said if said is not None else []).append)
    return fetching


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_is_there_goes_to_the_first_rank_and_what_it_writes_comes_back(home: Path, mirrors: list[Mirror]) -> None:
    write(home / "out" / "runs" / "a.json", "the first run")
    write(home / "out" / ".scratch" / "half", "temporary")
    (home / "out" / "empty").touch()
    write(home / "private.txt", "nothing of this run")
    said: list[str] = []
    fetching = start(home, mirrors, said)
    there, other = (mirror.folder for mirror in mirrors)
    assert (there / "out" / "runs" / "a.json").read_text() == "the first run"
    assert sorted(mirrors[0].listing()) == ["out/empty", "out/runs/a.json"] and not mirrors[1].listing()
    assert said == ["sending 2 files of an earlier run, 0.0 MB, to the first rank's node"]

    write(there / "out.json", "longer than one piece of five")
    write(there / "out" / ".half-1234", "temporary")
    write(other / "out" / "trace-rank-1.json", "of rank 1")
    (there / "out" / "runs" / "a.json").unlink()
    fetching.finish()
    assert (home / "out.json").read_text() == "longer than one piece of five"
    assert (home / "out" / "trace-rank-1.json").read_text() == "of rank 1"
    assert not (home / "out" / "runs").exists(), "what the rank has removed is removed here"
    assert (home / "out" / "empty").exists() and (home / "private.txt").exists()
    assert not list(home.rglob(".half-*"))


def test_files_come_while_the_work_goes_on(home: Path, mirrors: list[Mirror]) -> None:
    fetching = start(home, mirrors)
    write(mirrors[0].folder / "out" / "one", "1")
    deadline = time.monotonic() + 20
    while not (home / "out" / "one").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    fetching.stop()


def test_a_file_that_is_replaced_meanwhile_is_never_mixed(home: Path, mirrors: list[Mirror]) -> None:
    there = mirrors[0].folder / "out.json"
    write(there, "old words")
    stamp = mirrors[0].listing()["out.json"]
    assert mirrors[0].read("out.json", stamp, 0) == b"old w"
    write(there, "and new words")
    assert mirrors[0].read("out.json", stamp, 5) is None
    fetching = Fetching({0: Actor(mirrors[0])}, home, [home / "out.json"], lambda answer: answer)
    real = mirrors[0].read

    def replaced_once(*arguments: Any) -> bytes | None:
        write(there, "newest words!!")
        fetching._workers[0].read.remote = real
        return real(*arguments)

    fetching._workers[0].read.remote = replaced_once
    fetching.look()
    assert not (home / "out.json").exists()
    fetching.look()
    assert (home / "out.json").read_text() == "newest words!!"


def test_a_file_that_cannot_be_written_ends_the_work(home: Path, mirrors: list[Mirror]) -> None:
    fetching = start(home, mirrors)
    (home / "out").write_text("a file in the place of the folder")
    write(mirrors[0].folder / "out" / "one", "1")
    deadline = time.monotonic() + 20
    with pytest.raises(OSError, match=r"out"):
        while time.monotonic() < deadline:
            fetching.check()
            time.sleep(0.01)
    with pytest.raises(OSError, match=r"out"):
        fetching.finish()


@pytest.mark.parametrize("name", ["elsewhere.txt", "out/../private.txt"])
def test_ranks_write_nothing_but_their_results(name: str, home: Path, mirrors: list[Mirror]) -> None:
    worker = Actor(mirrors[0])
    write(mirrors[0].folder / "elsewhere.txt", "x")
    write(mirrors[0].folder / "private.txt", "x")
    write(mirrors[0].folder / "out" / "x", "x")
    stat = (mirrors[0].folder / name).stat()
    worker.listing.remote = lambda: {name: (stat.st_mtime_ns, stat.st_size)}  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="none of the files of this run"):
        Fetching({0: worker}, home, [home / "out"], lambda answer: answer).look()
    assert not list(home.iterdir())


def test_what_a_killed_rank_has_left_is_removed_by_the_next(mirrors: list[Mirror]) -> None:

    dead, alive = mirrors
    os.close(dead._lock)
    dead._lock = -1
    third = Mirror()
    assert not dead.folder.exists() and alive.folder.exists()
    third.remove()
