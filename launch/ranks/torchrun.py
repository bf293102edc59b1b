"""Checks of `--launcher torchrun`, and arguments as torchrun takes them."""

from __future__ import annotations

import os
import shlex
import sys

from engine.errors import InvalidInput


def refuse_without_torchrun(ranks: int | None) -> None:
    """Refuse a process without RANK and WORLD_SIZE in its environment.

    Args:
        ranks: what ``--ranks`` names, if it was given.

    Raises:
        InvalidInput: one sentence with the command to type instead.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return
    arguments = escape_for_elastic(sys.argv[1:])
    command = shlex.join(["torchrun", "--nproc-per-node", str(ranks or "N"), "-m", "launch", *arguments])
    raise InvalidInput(
        f"--launcher torchrun is for a process that torchrun starts, and this is none: type `{command}`."
    )


def escape_for_elastic(arguments: list[str]) -> list[str]:
    """The arguments as torchrun and torch's elastic launcher hand them on unchanged: both substitute ${local_rank}, and
    a prompt may well hold a dollar sign."""
    return [argument.replace("$", "$$") for argument in arguments]
