"""Weights come from the host's memory, as on a GPU, to other memory of the CPU."""

import importlib.util
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class _After:
    """Finds a module as ever, and calls a function with it once it is imported."""

    def __init__(self, name: str, function: Callable[[Any], None]) -> None:
        self._name, self._function = name, function

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.loader is not None
        loader: Any = importlib.util.spec_from_file_location(name, spec.origin).loader  # type: ignore[union-attr]
        execute = loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            self._function(module)

        loader.exec_module = execute_and_change
        spec.loader = loader
        return spec


def wait_on_host(memory_bytes: float) -> Any:
    """A finder of modules that has weights wait in the memory of a machine that has so much of it."""

    def change(loaded: Any) -> None:
        from engine.execution import homes
        from tests.support.movers import CountingMover

        loaded.mover_for = lambda device: CountingMover()
        loaded.card_bytes = homes.card_bytes = lambda index: 24e9
        homes.host_bytes = lambda: memory_bytes

    return _After("engine.execution.loaded", change)
