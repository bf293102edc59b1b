"""The token with which this process shows a Ray cluster that it may use it: where Ray itself looks for one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import InvalidInput

TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_KUBERNETES = "RAY_ENABLE_K8S_TOKEN_AUTH"
_KUBERNETES_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_FILE = ".ray/auth_token"
_PLACES = f"put it into ~/{_FILE}, or name it with ${TOKEN} or ${TOKEN_PATH}"


@dataclass(frozen=True)
class Token:
    """A token that was found."""

    text: str = field(repr=False)
    source: str
    """Where, in words."""


def find_token(environment: Mapping[str, str] = os.environ) -> Token | None:
    """The token in $RAY_AUTH_TOKEN, else in the file that $RAY_AUTH_TOKEN_PATH names, else in ~/.ray/auth_token.

    Raises:
        InvalidInput: a file that is named or exists cannot be read or is empty, or the token is none.
    """
    if text := environment.get(TOKEN, "").strip():
        return _checked(Token(text, f"${TOKEN}"))
    named = environment.get(TOKEN_PATH) or ""
    if not named and environment.get(_KUBERNETES, "").lower() in ("1", "true"):
        named = _KUBERNETES_FILE
    if named:
        return _read(Path(named), f"the file {named}", must_exist=True)
    home = environment.get("HOME")
    return _read(Path(home) / _FILE, f"~/{_FILE}", must_exist=False) if home else None


def missing_token(address: object) -> InvalidInput:
    """The error for a cluster that wants a token, where none is found."""
    return InvalidInput(
        f"The Ray cluster at {address} wants a token, and there is none here: {_PLACES}; `ray get-auth-token` prints "
        "it on the machine of the cluster's head."
    )


def refused_token(address: object, token: Token) -> InvalidInput:
    """The error for a cluster that does not take the token that was found."""
    return InvalidInput(
        f"The Ray cluster at {address} does not take the token in {token.source}: `ray get-auth-token` prints the "
        f"right one on the machine of the cluster's head; {_PLACES}."
    )


def _read(file: Path, source: str, must_exist: bool) -> Token | None:
    try:
        text = file.read_text().strip()
    except (FileNotFoundError, NotADirectoryError) as error:
        if not must_exist:
            return None
        raise InvalidInput(f"Ray's token cannot be read from {source} ({error.strerror}): {_PLACES}.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InvalidInput(f"Ray's token cannot be read from {source} ({reason}): {_PLACES}.") from None
    if not text:
        raise InvalidInput(f"Ray's token cannot be read from {source}, which is empty: {_PLACES}.")
    return _checked(Token(text, source))


def _checked(token: Token) -> Token:
    if not (token.text.isascii() and token.text.isprintable()):
        raise InvalidInput(f"Ray's token in {token.source} is not one line of ASCII: {_PLACES}.")
    return token
