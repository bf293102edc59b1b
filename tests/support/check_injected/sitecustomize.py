"""Python imports this in every process whose PYTHONPATH holds this folder: LOCKSTEP_CHECK_FAULT names the fault of
tests/support/check_faults.py that the engine gets, once it is imported."""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class _Patch:
    setattr = staticmethod(setattr)


class _Finder:
    """Installs the fault after the engine's module has run."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "engine.engine":
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            from tests.support.check_faults import CRASH, FAULTS

            patch: Any = _Patch
            (FAULTS | {"crash": CRASH})[os.environ["LOCKSTEP_CHECK_FAULT"]].install(patch)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if os.environ.get("LOCKSTEP_CHECK_FAULT"):
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
