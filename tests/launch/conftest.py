"""A shell for the tests that run commands as a person runs them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.shell import Shell


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def shell(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path, tiny_checkpoint)
    yield shell
    shell.stop()


@pytest.fixture
def stub_shell(shell: Shell) -> Shell:
    """A shell whose ranks run the stub engine: for how runs start and end, whatever they make."""
    shell.stub = True
    return shell
