"""What is given as the address of a Ray cluster: wrong kinds, wrong ports, tokens and versions, each known within
seconds and said in a sentence."""

import socket
import threading
import time
from pathlib import Path

import pytest

from engine.errors import InvalidInput
from launch.gang import head as head_module
from launch.gang import listener
from launch.gang.address import Address, check_address
from launch.gang.head import find_head
from launch.gang.token import find_token
from tests.support.ports import FakeHead, fake_head, server

NOTHING = {"HOME": "/nowhere"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits a fifth as long as it does, and knows no token of the person who runs the tests."""
    for module, name in (
        (head_module, "_HANDSHAKE_SECONDS"),
        (listener, "_ANSWER_SECONDS"),
        (listener, "_BANNER_SECONDS"),
        (listener, "_CONNECT_SECONDS"),
        (listener, "_RESOLVE_SECONDS"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name) / 5)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nowhere")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (" head:6379 ", "head:6379"),
        ("10.0.0.1:1", "10.0.0.1:1"),
        ("[::1]:6379", "[::1]:6379"),
        ("::1:6379", "[::1]:6379"),
        ("auto", "auto"),
        ("local", None),
        ("", None),
        (None, None),
    ],
)
def test_addresses(given: str | None, taken: str | None) -> None:
    assert check_address(given) == taken


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("ray://head:10001", "Ray's client.*HOST:PORT"),
        ("http://head:8265", "URL.*dashboard.*HOST:PORT"),
        ("head", "has no port.*6379"),
        ("[::1]", "has no port"),
        (":6379", "names no host"),
        ("head:", "the port ''"),
        ("head:http", "the port 'http'"),
        ("head:0", "the port '0'.*1 to 65535"),
        ("head:65536", "the port '65536'"),
        ("head:６379", "no number"),
        ("me@head:6379", "names no host"),
        ("a b:6379", "names no host"),
    ],
)
def test_addresses_of_other_kinds(given: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=f"^--ray-address .*{words}"):
        check_address(given)
    monkeypatch.setenv("RAY_ADDRESS", given)
    with pytest.raises(InvalidInput, match=rf"^\$RAY_ADDRESS .*{words}"):
        check_address(None)


@pytest.mark.parametrize(
    ("banner", "answer", "words"),
    [
        (b"", b"HTTP/1.1 404 Not Found\r\n\r\n", "an HTTP server"),
        (b"", b'HTTP/1.1 200 OK\r\n\r\n{"ray_version": "2.60.0"}', "Ray's dashboard"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", None, "an SSH server"),
        (b"220 mail ESMTP\r\n", None, "a mail or FTP server"),
        (b"J\x00\x00\x00\x0a8.0.1\x00", None, "a MySQL server"),
        (b"hello there\r\n", None, "another server, which says 'hello there'"),
        (b"", b"-ERR unknown command 'GET'\r\n", "a Redis server"),
        (b"", b"-NOAUTH Authentication required.\r\n", "a Redis server"),
        (b"", b"\x15\x03\x01\x00\x02\x02\x46", "a server with TLS"),
        (b"", b"", "does not answer as Ray does"),
        (b"", None, "does not answer as Ray does"),
    ],
)
def test_a_port_of_something_else_is_named(banner: bytes, answer: bytes | None, words: str) -> None:
    with server(banner, answer) as port:
        begun = time.monotonic()
        with pytest.raises(InvalidInput, match=rf"no Ray cluster at 127\.0\.0\.1:{port} \(.*{words}.*ray start --head"):
            find_head(Address("127.0.0.1", port), NOTHING)
        assert time.monotonic() - begun < 1.0, "a fifth of five seconds, for so are the limits shortened here"


def test_limits_add_up_to_less_than_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    silent = head_module._HANDSHAKE_SECONDS + listener._BANNER_SECONDS + listener._ANSWER_SECONDS
    assert max(silent, listener._RESOLVE_SECONDS, listener._CONNECT_SECONDS) < 4.5


def test_closed_ports_and_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(InvalidInput, match=r"no Ray cluster at .* \(Connection refused\): check --ray-address"):
        find_head(Address("127.0.0.1", port), NOTHING)
    with pytest.raises(InvalidInput, match=r"the name nowhere\.invalid cannot be resolved"):
        find_head(Address("nowhere.invalid", 6379), NOTHING)
    with pytest.raises(InvalidInput, match="cannot be resolved"):
        find_head(Address("x" * 70, 6379), NOTHING)
    hangs = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: hangs.wait())
    with pytest.raises(InvalidInput, match="the name slow was not resolved within"):
        find_head(Address("slow", 6379), NOTHING)
    hangs.set()


def test_another_grpc_server_is_no_head() -> None:
    with (
        fake_head(FakeHead(), serves=False) as head,
        pytest.raises(InvalidInput, match=r"another gRPC server answers there.*10001"),
    ):
        find_head(Address("127.0.0.1", head.port), NOTHING)


def test_a_token_is_used_where_the_cluster_wants_one(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    file = tmp_path / ".ray" / "auth_token"
    named = tmp_path / "named"
    named.write_text("other\n")
    with fake_head(FakeHead(token="secret")) as head:
        address = Address("127.0.0.1", head.port)
        with pytest.raises(InvalidInput, match=r"wants a token, and there is none here.*auth_token.*\$RAY_AUTH_TOKEN"):
            find_head(address, home)
        file.parent.mkdir()
        file.write_text("secret\n")
        found = find_head(address, home)
        assert found.token and found.token.text == "secret" and "secret" not in repr(found)
        assert find_head(address, {"RAY_AUTH_TOKEN": "secret", **NOTHING}).token
        with pytest.raises(InvalidInput, match=r"does not take the token in \$RAY_AUTH_TOKEN: .*ray get-auth-token"):
            find_head(address, {"RAY_AUTH_TOKEN": "wrong", **home})
        with pytest.raises(InvalidInput, match=r"does not take the token in the file .*named"):
            find_head(address, {"RAY_AUTH_TOKEN_PATH": str(named), **home})
        with pytest.raises(InvalidInput, match=r"cannot be read from the file .*missing .No such file"):
            find_head(address, {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "missing"), **home})
    with fake_head(FakeHead()) as open_to_all:
        assert find_head(Address("127.0.0.1", open_to_all.port), home).token is None, "it is not shown to everybody"


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "which is empty"), (b"two\nlines", "not one line"), (b"\xff\xfe", "it is no text")]
)
def test_what_is_no_token(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(InvalidInput, match=words):
        find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")})
    assert find_token({}) is None


def test_another_version_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    both = FakeHead(ray_version="2.1.0", python_version="3.8.1", socket_name="/nowhere/raylet")
    with (
        fake_head(both) as head,
        pytest.raises(InvalidInput, match=r"^The Ray cluster at .* runs Ray 2\.1\.0 on Python 3\.8\.1, and here it is"),
    ):
        find_head(Address("127.0.0.1", head.port), NOTHING)
    own = FakeHead().python_version
    with fake_head(FakeHead(python_version=own + "9")) as head:
        address = Address("127.0.0.1", head.port)
        with pytest.raises(InvalidInput, match="install the same versions"):
            find_head(address, NOTHING)
        monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
        find_head(address, NOTHING)


def test_a_cluster_without_a_node_here() -> None:
    with fake_head(FakeHead(socket_name="/nowhere/raylet")) as head:
        address = Address("127.0.0.1", head.port)
        with pytest.raises(InvalidInput, match=rf"is on this machine: .*10\.9\.8\.7.*ray start --address={address}"):
            find_head(address, NOTHING)
        head.is_alive = False
        with pytest.raises(InvalidInput, match="has no node that is up"):
            find_head(address, NOTHING)
