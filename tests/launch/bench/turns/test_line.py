"""Lines of JSON between two builds."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from engine.errors import InvalidInput
from launch.bench.turns.line import KEY_VARIABLE, Caller, Line, LineClosed


@pytest.fixture
def ends() -> Iterator[tuple[Line, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield Line(ours), theirs
    ours.close()
    theirs.close()


def test_messages_come_whole_and_in_order(ends: tuple[Line, socket.socket]) -> None:
    line, other = ends
    other.sendall(b'{"do": "load"}\n{"do": "vid')
    assert line.receive(1) == {"do": "load"}
    assert line.receive(0.05) is None
    other.sendall(b'eo", "round": 3, "prompt": 0}\n')
    assert line.receive(1) == {"do": "video", "round": 3, "prompt": 0}
    line.send(done="video")
    assert other.recv(100) == b'{"done": "video"}\n'


@pytest.mark.parametrize("sent", [b"", b"what?\n", b"[1]\n", b"x" * (1 << 17)], ids=["end", "text", "list", "endless"])
def test_what_is_no_line_closes_it(sent: bytes, ends: tuple[Line, socket.socket]) -> None:
    line, other = ends
    writer = threading.Thread(target=lambda: (other.sendall(sent), other.close()))
    writer.start()
    with pytest.raises(LineClosed, match="takes turns"):
        line.receive(5)
    line.close()
    writer.join()


def test_nobody_at_the_other_end(ends: tuple[Line, socket.socket]) -> None:
    line, other = ends
    other.close()
    with pytest.raises(LineClosed):
        line.send(do="load")


def test_a_wait_takes_no_processor(ends: tuple[Line, socket.socket]) -> None:
    line, _ = ends
    before = time.thread_time()
    assert line.receive(0.5) is None
    assert time.thread_time() - before < 0.02


@pytest.mark.parametrize("address", ["", "here", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "10.0.0.1:80"])
def test_an_address_that_no_build_gives(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "key")
    with pytest.raises(InvalidInput, match="--turns is"):
        Caller.of(address)


def test_a_caller_without_key_or_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(InvalidInput, match="--against-build"):
        Caller.of("127.0.0.1:4321")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv(KEY_VARIABLE, "key")
    with pytest.raises(LineClosed, match="has ended"):
        Caller.of(f"127.0.0.1:{port}").call()
