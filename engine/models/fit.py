"""Compares the tensors that files hold with those that a model has, by names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

Shape = Sequence[int]

_NAMED = 3


def misfit(held: Mapping[str, Shape], wanted: Mapping[str, Shape], ignored: Iterable[str] = ()) -> str | None:
    """What of the held tensors is not as wanted: a phrase that names the first ones and counts the others; None where
    all fit.

    Args:
        ignored: regular expressions; held tensors whose names match one may be unknown.
    """
    patterns = [re.compile(pattern) for pattern in ignored]
    unknown = [name for name in held if name not in wanted and not any(pattern.search(name) for pattern in patterns)]
    reshaped = [
        (name, held[name], shape) for name, shape in wanted.items() if name in held and list(held[name]) != list(shape)
    ]
    return describe_misfit([name for name in wanted if name not in held], unknown, reshaped)


def describe_misfit(
    missing: Sequence[str], unknown: Sequence[str], reshaped: Sequence[tuple[str, Shape, Shape]]
) -> str | None:
    """The phrase of :func:`misfit`.

    Args:
        reshaped: name, shape in the files and shape in the model.
    """
    phrases = []
    if missing:
        phrases.append(f"{_names(missing)} missing")
    if unknown:
        phrases.append(f"{_names(unknown)} unknown to this model")
    if reshaped:
        name, held, wanted = reshaped[0]
        more = f", {len(reshaped) - 1} more other shapes as well" if len(reshaped) > 1 else ""
        phrases.append(f"{name} has the shape {list(held)} instead of {list(wanted)}{more}")
    return ", and ".join(phrases) or None


def _names(names: Sequence[str]) -> str:
    """With the verb: "a is", "a, b, c and 4 more are"."""
    shown, more = ", ".join(names[:_NAMED]), len(names) - _NAMED
    return f"{shown} and {more} more are" if more > 0 else f"{shown} {'is' if len(names) == 1 else 'are'}"
