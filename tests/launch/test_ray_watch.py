"""A Ray that goes away while it is used: noticed within seconds, without a Ray."""

import contextlib
import ctypes
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import InvalidInput
from launch.cluster.__main__ import RAY_LOST, supervise
from launch.gang import bundles, driver, own_ray, run, watch
from launch.gang.address import Address
from launch.gang.bundles import reserve, what_is_missing
from launch.gang.watch import RayLost, RayWatch
from launch.process.bounded import within
from launch.process.quiet import output_to_file
from launch.process.signals import Interrupted
from tests.support.ports import FakeHead, fake_head, server


@contextmanager
def watching(
    own: bool = False, timeout_seconds: float = 0.3
) -> Iterator[tuple[RayWatch, FakeHead, Callable[[], None]]]:
    """A watch of a fake head and of a node, and what closes the node's port."""
    with contextlib.ExitStack() as node, fake_head(FakeHead()) as head:
        raylet = node.enter_context(server())
        addresses = Address("127.0.0.1", head.port), Address("127.0.0.1", raylet)
        looks = RayWatch(*addresses, head.node_id.hex(), None, own, timeout_seconds)
        looks._look()
        looks.check()
        yield looks, head, node.close
        looks._connection.__exit__(None, None, None)


def test_a_node_that_has_ended_is_noticed_at_once() -> None:
    with watching() as (looks, _, close_node):
        looks.check_now()
        close_node()
        with pytest.raises(RayLost, match=r"node on this machine has ended: nothing listens at .*ray start --address="):
            looks.check_now()
        assert looks.is_lost
    with watching(own=True) as (looks, _, close_node):
        close_node()
        looks._look()
        looks.check()  # one refusal may be that of a busy system
        looks._look()
        with pytest.raises(RayLost, match="started for this run has died"):
            looks.check()


def test_a_head_may_be_silent_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_ANSWER_SECONDS", 0.2)
    with watching() as (looks, head, _):
        silent = looks._connection
        looks._connection = type(silent)(Address("127.0.0.1", 1))
        looks._look()
        looks.check()
        looks._connection = silent  # it was started again, with fault tolerance
        looks._look()
        looks._connection = type(silent)(Address("127.0.0.1", 1))
        time.sleep(0.35)
        looks._look()
        with pytest.raises(RayLost, match=rf"head of the Ray cluster at 127\.0\.0\.1:{head.port} has not answered"):
            looks.check()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cluster_id": b"d" * 28}, "was started anew, and does not know this run"),
        ({"token": "new"}, "is another one than before"),
        ({"is_alive": False}, "has given up the Ray node on this machine"),
    ],
)
def test_a_head_that_is_another_one(change: dict[str, Any], words: str) -> None:
    with watching() as (looks, head, _):
        for name, value in change.items():
            setattr(head, name, value)
        for _ in range(watch._LOOKS_BETWEEN_NODES):
            looks._look()
        with pytest.raises(RayLost, match=words):
            looks.check()


def test_the_head_of_a_ray_of_our_own_is_not_waited_for() -> None:
    with watching(own=True, timeout_seconds=100) as (looks, _, _close):
        looks._head = Address("127.0.0.1", 1)
        looks._connection = type(looks._connection)(looks._head)
        looks._look()
        with pytest.raises(RayLost, match="its head does not listen any more"):
            looks.check()


def test_a_call_that_hangs_is_left_behind() -> None:
    ended = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.05, ended.wait)
    assert within(1, lambda: 3) == 3
    with pytest.raises(KeyError):
        within(1, lambda: {}["x"])
    with watching() as (looks, _, _close):
        assert looks.call(lambda: 4) == 4
        looks._lose("It is gone.")
        begun = time.monotonic()
        with pytest.raises(RayLost, match="It is gone"):
            looks.call(ended.wait)
        assert time.monotonic() - begun < 1
    ended.set()


def test_what_is_missing_is_said_in_words() -> None:
    each = {"CPU": 1, "GPU": 1}
    assert what_is_missing(2, each, {"CPU": 8, "GPU": 2}, {"CPU": 6, "GPU": 1}) == "1 of 2 GPU are free"
    assert what_is_missing(2, each, {"CPU": 1, "GPU": 2}, {"GPU": 2}) == "the cluster has 1 of 2 CPU"
    assert what_is_missing(4, each, {"CPU": 9}, {"CPU": 1}) == "1 of 4 CPU are free, the cluster has 0 of 4 GPU"
    assert "not on one node" in what_is_missing(1, each, {"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1})


def test_waiting_for_room_is_said_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is missing, again and again, and not beyond the limit."""
    removed: list[object] = []
    group = SimpleNamespace(wait=lambda seconds: time.sleep(0.02))
    monkeypatch.setattr(bundles, "_FIRST_TOLD_SECONDS", 0.03)
    monkeypatch.setattr(bundles, "_TELL_SECONDS", 0.05)
    monkeypatch.setattr(bundles, "free_resources_by_node", lambda: [{"CPU": 4, "GPU": 1}])
    monkeypatch.setattr(bundles, "placement_group", lambda *arguments, **options: group)
    monkeypatch.setattr(bundles, "remove_placement_group", removed.append)
    monkeypatch.setattr(bundles, "_amounts", lambda: ({"CPU": 4, "GPU": 2}, {"CPU": 4, "GPU": 1}))
    monkeypatch.setattr(bundles.ray, "nodes", lambda: [{"Alive": True}])
    monkeypatch.setattr(bundles.ray, "cluster_resources", lambda: {"CPU": 4, "GPU": 2})
    monkeypatch.setattr(bundles.ray, "available_resources", lambda: {"CPU": 4, "GPU": 1})
    told: list[str] = []
    with watching() as (looks, _, _close), pytest.raises(InvalidInput, match=r"no room for 2 ranks.*2 GPU of which 1"):
        reserve(2, {"CPU": 1, "GPU": 1}, 0.3, looks, told.append)
    assert len(told) >= 2 and told[0].startswith("waiting for room in the Ray cluster: 1 of 2 GPU are free (")
    assert removed == [group]
    with watching() as (looks, _, _close), pytest.raises(RayLost):
        looks._lose("It is gone.")
        reserve(2, {"CPU": 1, "GPU": 1}, 100, looks, told.append)


def test_output_of_libraries_goes_to_a_file(tmp_path: Path) -> None:
    """From Python, from C, and from other threads, until the end; what is ours still reaches the terminal."""
    file = tmp_path / "log"
    reading, writing = os.pipe()
    kept = [os.dup(1), os.dup(2)]
    try:
        for descriptor in (1, 2):
            os.dup2(writing, descriptor)
        with output_to_file(file) as (stdout, stderr):
            os.write(1, b"c out\n")
            thread = threading.Thread(target=os.write, args=(2, b"c err\n"))
            thread.start()
            thread.join()
            libc = ctypes.CDLL(None)
            libc.puts(b"from stdio")
            libc.fflush(None)
            print("ours out", file=stdout, flush=True)
            print("ours err", file=stderr, flush=True)
        os.write(2, b"after\n")
    finally:
        for descriptor, own in zip((1, 2), kept, strict=True):
            os.dup2(own, descriptor)
            os.close(own)
        os.close(writing)
    assert os.read(reading, 1000) == b"ours out\nours err\nafter\n"
    os.close(reading)
    assert file.read_text() == "c out\nc err\nfrom stdio\n" and file.stat().st_mode & 0o777 == 0o600


def test_sockets_of_a_ray_of_our_own_have_short_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("t" * 45)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    folder = own_ray.make_folder()
    folder.rmdir()
    path = f"{folder}/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
    # a path that is too long is an OSError of another kind
    with socket.socket(socket.AF_UNIX) as listening, pytest.raises(FileNotFoundError):
        listening.bind(path)


@pytest.mark.parametrize("at_the_end", [RayLost("gone"), RuntimeError("raised"), Interrupted(2), None])
def test_a_success_is_printed_and_counts_whatever_the_clean_up_does(
    at_the_end: BaseException | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed: list[str] = []

    @contextmanager
    def connection(*arguments: Any) -> Iterator[Any]:
        logs = SimpleNamespace(keep=False, in_words="")
        yield SimpleNamespace(stdout=sys.stdout, stderr=sys.stderr, watch=None, logs=logs)
        assert printed == ["summary"], "before the clean-up"
        if at_the_end:
            raise at_the_end

    class Job:
        def __init__(self, *arguments: Any) -> None:
            self._succeed = arguments[-1]

        def run(self) -> None:
            self._succeed([{}])

    monkeypatch.setattr(driver, "connection", connection)
    monkeypatch.setattr(run, "_JobOnRay", Job)
    monkeypatch.setattr(run, "summarise", lambda reports, stream: printed.append("summary"))
    job: Any = SimpleNamespace(
        degrees=SimpleNamespace(world_size=2),
        config=SimpleNamespace(ray=SimpleNamespace(head_timeout_seconds=1), checkpoint=SimpleNamespace(every=0)),
    )
    assert run.run_on_ray(job, lambda place, resume: job, 2, None) == 0 and printed == ["summary"]
    capsys.readouterr()


def test_a_server_that_has_lost_its_ray_is_started_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = [RAY_LOST, 0]
    started: list[list[str]] = []

    class Process:
        def __init__(self, command: list[str], **options: Any) -> None:
            started.append(command)

        def wait(self) -> int:
            return codes.pop(0)

    monkeypatch.setattr("launch.cluster.__main__.subprocess.Popen", Process)
    monkeypatch.setattr("launch.cluster.__main__.signal.signal", lambda *arguments: None)
    assert supervise(["--log=x", "config"]) == 0
    assert len(started) == 2 and started[1][-1] == "config" and "--log=x" not in started[1]
    assert "the server has lost its Ray: it is started again" in capsys.readouterr().err
