"""The collector stands still while modules are imported ahead, and only then."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.execution.imports import import_ahead


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The source of a module named "slow_to_import"; what is frozen by its import thaws afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "slow_to_import.py"
    sys.modules.pop("slow_to_import", None)
    gc.unfreeze()


def test_collecting_stops_once_and_leaves_alone_what_is_there(slow_module: Path) -> None:
    slow_module.write_text("import gc\ncollecting = gc.isenabled()\n")
    gc.unfreeze()
    import_ahead("slow_to_import")
    assert sys.modules["slow_to_import"].collecting is False
    assert gc.isenabled() and gc.get_freeze_count() > 10_000
    gc.unfreeze()
    import_ahead("slow_to_import")
    assert gc.get_freeze_count() == 0, "it is there: a rank that has weights by now must not freeze its garbage"


def test_a_failing_import_leaves_the_collector_on(slow_module: Path) -> None:
    slow_module.write_text("raise OSError('no such library')")
    with pytest.raises(OSError, match="no such library"):
        import_ahead("slow_to_import")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(slow_module: Path) -> None:
    slow_module.write_text("")
    gc.unfreeze()
    gc.disable()
    try:
        import_ahead("slow_to_import")
        assert not gc.isenabled() and gc.get_freeze_count() == 0
    finally:
        gc.enable()
