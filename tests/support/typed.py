"""Commands of `lockstep`, run in the process of the test."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest


class Typed(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Typed]
"""Runs the command with these words."""


def command(capfd: pytest.CaptureFixture[str]) -> Command:
    from launch.commands.app import app
    from launch.process.running import run

    def type_(*arguments: str) -> Typed:
        capfd.readouterr()
        code = run(app, list(arguments))
        sys.stdout.flush()
        return Typed(code, *capfd.readouterr())

    return type_
