"""Which published numbers a model gets, where a gate needs some."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

_Numbers = TypeVar("_Numbers")


def is_published(table: Mapping[str, object], named: str | None, names: Sequence[str]) -> bool:
    """Whether a gate takes published numbers. If not, it takes those of a calibration, if there is one.

    Args:
        table: published numbers by model.
        named: ``cache.gate.published``.
        names: under which the model may have been published.
    """
    return named is not None or any(name in table for name in names)


def choose(
    gate: str, things: str, table: Mapping[str, _Numbers], named: str | None, names: Sequence[str], own: str
) -> tuple[str, _Numbers]:
    """The name and the entry of the numbers that were published for this model; arguments as above.

    Args:
        gate: for the error message, as the following two.
        things: what the numbers are called.
        own: the key for numbers of the user's own.

    Raises:
        ValueError: there are none, several, or none under ``named``; one sentence.
    """
    known = [name for name in names if name in table]
    if named is not None and named not in known:
        fitting = f"use {' or '.join(known)}" if known else f"leave it out and give {own} of your own"
        raise ValueError(
            f"cache.gate.published is {named!r}, for which {gate} has no {things} that fit this model: {fitting}."
        )
    if not known:
        raise ValueError(
            f"The gate of the cache is {gate}, whose {things} are published for {', '.join(table)}, and this model is "
            f"none of these: use the method dicache, fbcache, easycache or interval, or give {own} of your own."
        )
    if named is None and len(known) > 1:
        raise ValueError(
            f"cache.gate.published is left out, but {gate} has different {things} for {' and '.join(known)}, and this "
            "model may be either: name one."
        )
    name = named or known[0]
    return name, table[name]
