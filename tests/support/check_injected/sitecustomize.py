"""Python imports this in every process whose PYTHONPATH holds this folder: LOCKSTEP_CHECK_FAULT names the fault of
tests/support/check_faults.py that the engine gets once it is imported, or is "wrong rank": a launcher blames the first
rank for what the second one did."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class _Patch:
    setattr = staticmethod(setattr)


def _install(engine: Any) -> None:
    from launch.check import worker
    from tests.support.check_faults import FAULTS, OTHERS

    worker.ENOUGH = 0.0  # else what is slow would not be judged beside other tests
    patch: Any = _Patch
    if fault := (FAULTS | OTHERS).get(os.environ["LOCKSTEP_CHECK_FAULT"]):
        fault.install(patch)


def _blame_the_first(failures: Any) -> None:
    from dataclasses import replace

    find = failures.root_cause
    if os.environ["LOCKSTEP_CHECK_FAULT"] == "wrong rank":
        failures.root_cause = lambda *given, **others: replace(find(*given, **others), rank=0)


_CHANGES: dict[str, Callable[[Any], None]] = {"engine.engine": _install, "launch.process.failures": _blame_the_first}


class _Finder:
    """Changes a module after it has run."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _CHANGES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            _CHANGES[name](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if os.environ.get("LOCKSTEP_CHECK_FAULT"):
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
