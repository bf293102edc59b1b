"""The stub engine can stand where the engine stands."""

import inspect

import pytest

from engine.engine import Engine
from tests.support.injected import stub_engine


@pytest.mark.parametrize("name", ["load", "configured", "generate_all", "close"])
def test_it_is_called_as_the_engine_is(name: str) -> None:
    def parameters(kind: type) -> list[tuple[str, object, str]]:
        found = inspect.signature(getattr(kind, name)).parameters.values()
        return [(one.name, one.annotation, "required" if one.default is one.empty else "optional") for one in found]

    assert parameters(stub_engine.Engine) == parameters(Engine)
