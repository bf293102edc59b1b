"""The stub engine can stand where the engine stands."""

import inspect
from pathlib import Path

import pytest

from engine.engine import Engine
from engine.errors import Cancelled
from engine.request import Outputs, make_tasks
from launch.screens.summary import summary_lines
from parallel.control import Control
from tests.support.injected import stub_engine
from tests.support.small_model import tiny_config


@pytest.mark.parametrize("name", ["load", "configured", "generate_all", "close"])
def test_it_is_called_as_the_engine_is(name: str) -> None:
    def parameters(kind: type) -> list[tuple[str, object, str]]:
        found = inspect.signature(getattr(kind, name)).parameters.values()
        return [(one.name, one.annotation, "required" if one.default is one.empty else "optional") for one in found]

    assert parameters(stub_engine.Engine) == parameters(Engine)


def test_a_video_of_one_rank(tmp_path: Path) -> None:
    config = tiny_config("sampling.steps=3", "checkpoint.every=2", "parallel.ulysses=1", "parallel.ring=1")
    checkpoint = tmp_path / "o.checkpoint"
    tasks = make_tasks(["a circle"], "", [0], config.sampling, Outputs(tmp_path / "o.mp4", checkpoint=checkpoint))
    engine = stub_engine.Engine.load(config)
    (report,) = engine.generate_all(tasks) or []
    assert dict(summary_lines(report))["steps"] == "■■■ 3 computed, 0 skipped"
    assert (tmp_path / "o.mp4").read_text() == "('a circle',), 0\n"
    (saved,) = checkpoint.rglob("rank-*")
    assert saved.parent.name == "step-00002"
    with pytest.raises(Cancelled):
        engine.generate_all(tasks, lambda: Control.CANCEL)
    engine.close()
