"""What work has to offer whose ranks run on other machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

from engine.request import Task
from launch.jobs.config import JobConfig


class Checked(Protocol):
    """Work that has passed its checks."""

    @property
    def config(self) -> JobConfig:
        """With nothing left open."""

    @property
    def given(self) -> JobConfig:
        """As it was read."""


Settle = Callable[[JobConfig, Sequence[Task]], JobConfig]
"""Checks a configuration and its tasks on a node. Returns it with the node's own copy of the model."""


class GangWork(Checked, Protocol):
    """Work that has passed every check, as it travels to the ranks of a gang: plain data."""

    @property
    def output(self) -> Path:
        """The file or folder of its results."""

    @property
    def owned(self) -> Sequence[Path]:
        """All files and folders that it writes: the output, and what stands beside it while it works."""

    @property
    def inputs(self) -> Sequence[Path]:
        """All files that the ranks read, beside the model."""

    def settled(self, settle: Settle) -> Self:
        """The same with every configuration replaced by what ``settle`` makes of it."""

    def writing_to(self, output: Path) -> Self:
        """The same with its results somewhere else."""
