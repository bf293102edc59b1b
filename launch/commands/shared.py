"""A list of options that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

Rest = ParamSpec("Rest")
Read = TypeVar("Read")


def taking(read: Callable[..., Read]) -> Callable[[Callable[Concatenate[Read, Rest], int]], Callable[..., int]]:
    """A decorator for a command whose first parameter is what ``read`` makes of options. The command line shows the
    parameters of ``read`` in its place, so that several commands share one list."""
    shared = inspect.signature(read).parameters

    def decorate(command: Callable[Concatenate[Read, Rest], int]) -> Callable[..., int]:
        call: Callable[..., int] = command
        _, *own = inspect.signature(command).parameters.values()

        def run(**values: Any) -> int:
            first = read(**{name: values.pop(name) for name in shared})
            return call(first, **values)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        hints = get_type_hints(read, include_extras=True) | get_type_hints(command, include_extras=True)
        parameters = [each.replace(annotation=hints[each.name]) for each in (*shared.values(), *own)]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
        return run

    return decorate
