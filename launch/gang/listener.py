"""What listens at a port, where it is no head of Ray: found out within seconds, with sockets alone."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress

from engine.errors import InvalidInput
from launch.gang.address import USUAL_PORT, Address
from launch.process.bounded import within

_RESOLVE_SECONDS = 4.0
_CONNECT_SECONDS = 4.0
_BANNER_SECONDS = 0.4  # servers that speak first do so at once
_ANSWER_SECONDS = 0.8
_READ_BYTES = 4096
# an HTTP request that Ray's dashboard answers with its version; servers of other protocols complain in their own
_REQUEST = b"GET /api/version HTTP/1.0\r\nHost: lockstep\r\n\r\n"
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")
_USUAL = {
    8265: "Ray's dashboard",
    8076: "a Ray node's object manager",
    10001: "Ray's client",
    52365: "the agent of Ray's dashboard",
}


def check_listening(address: Address) -> None:
    """Check that a server accepts connections there: Ray itself would retry for minutes.

    Raises:
        InvalidInput: the host has no address, or nothing listens there, or no answer came within four seconds.
    """
    try:
        within(_RESOLVE_SECONDS, lambda: socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM))
    except TimeoutError:
        raise _none(address, f"the name {address.host} was not resolved within {_RESOLVE_SECONDS:g} s") from None
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _none(address, f"the name {address.host} cannot be resolved: {reason}") from None
    try:
        _connect(address, _CONNECT_SECONDS).close()
    except TimeoutError:
        raise _none(address, f"no answer within {_CONNECT_SECONDS:g} s") from None
    except OSError as error:
        raise _none(address, error.strerror or str(error)) from None


def _none(address: Address, reason: str) -> InvalidInput:
    return InvalidInput(
        f"There is no Ray cluster at {address} ({reason}): check --ray-address or $RAY_ADDRESS, and that "
        "`ray start --head` has run there."
    )


def wrong_listener(address: Address) -> InvalidInput:
    """The error for a port at which something listens that does not answer as the head of a Ray cluster does."""
    found = _name_listener(address) or _USUAL.get(address.port)
    what = f"{found} answers there" if found else "what listens there does not answer as Ray does"
    return InvalidInput(
        f"There is no Ray cluster at {address} ({what}): give the address that `ray start --head` printed, whose port "
        f"is {USUAL_PORT} unless --port said otherwise."
    )


def _name_listener(address: Address) -> str | None:
    """What answers, in words; None if it cannot be told."""
    banner, _ = _exchange(address, b"", _BANNER_SECONDS)
    if banner:
        return _of_banner(banner)
    answer, ended = _exchange(address, _REQUEST, _ANSWER_SECONDS)
    if answer.startswith(b"HTTP/"):
        if b"ray_version" in answer or (address.port == 8265 and b" 401 " in answer[:32]):
            return "Ray's dashboard"
        return "an HTTP server"
    if answer.startswith((b"-ERR", b"-NOAUTH", b"-DENIED", b"+", b"$-1")):
        return "a Redis server"
    if answer.startswith(_TLS_RECORDS) or (ended and not answer and _speaks_tls(address)):
        return "a server with TLS, which takes RAY_USE_TLS=1 if it is Ray's,"
    return _of_banner(answer) if answer else None


def _of_banner(banner: bytes) -> str:
    if banner.startswith(b"SSH-"):
        return "an SSH server"
    if banner.startswith(b"220"):
        return "a mail or FTP server"
    if banner[3:5] == b"\x00\x0a" or b"mysql" in banner.lower():
        return "a MySQL server"
    if banner.startswith(b"\x00\x00") and banner[3:4] == b"\x04":
        return "a server of HTTP/2"
    text = "".join(chr(byte) for byte in banner[:24] if 32 <= byte < 127)
    return f"another server, which says {text!r}," if len(text) > 3 else "another server"


def _exchange(address: Address, sent: bytes, seconds: float) -> tuple[bytes, bool]:
    """What the server says within that time, to begin with, and whether it has closed the connection then."""
    received, ended = b"", False
    deadline = time.monotonic() + seconds
    with suppress(OSError), _connect(address, seconds) as connection:
        connection.sendall(sent)
        while len(received) < _READ_BYTES and (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            more = connection.recv(_READ_BYTES)
            if not more:
                ended = True
                break
            received += more
            if not sent:
                break
    return received, ended


def _speaks_tls(address: Address) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only to know the protocol; nothing is sent
    try:
        with _connect(address, _ANSWER_SECONDS) as connection, context.wrap_socket(connection):
            return True
    except ssl.SSLError as error:
        # alerts are of TLS; anything else that came instead of a handshake is not
        return "ALERT" in (error.reason or "")
    except (OSError, ValueError):
        return False


def _connect(address: Address, seconds: float) -> socket.socket:
    return socket.create_connection((address.host, address.port), seconds)
