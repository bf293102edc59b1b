"""The ``parallel`` section of a configuration: the layout of the ranks."""

import math
from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from parallel.degrees import Degrees

AUTO = "auto"


def spell_out(section: Any, before: Any = None) -> Any:
    """The section that the word ``auto`` stands for: every degree of a replica is open. Other sections are unchanged.

    Args:
        before: the section that the word replaces; its keys other than degrees stay.
    """
    if section != AUTO:
        return section
    stays = before if isinstance(before, dict) else {}
    return {**stays, "cfg": None, "ulysses": None, "ring": None}


def _without_tensor(section: Any) -> Any:
    """The section without the key ``tensor``, which earlier versions had and which could be 1 alone.

    Raises:
        ValueError: it is not 1.
    """
    if not isinstance(section, dict) or "tensor" not in section:
        return section
    tensor = section["tensor"]
    if isinstance(tensor, bool) or tensor != 1:
        given = [degree for name in ("ulysses", "ring") if isinstance(degree := section.get(name), int)]
        if (sequence := math.prod(given)) > 1:
            complaint = f" beside {sequence} sequence ranks, but xDiT 0.7 groups tensor and sequence ranks wrongly"
        else:
            complaint = ", but xDiT 0.7 has no tensor-parallel Wan or HunyuanVideo"
        raise ValueError(
            f"parallel.tensor is {tensor}{complaint}: leave it out, use parallel.ulysses and parallel.ring to share "
            "the work, and parallel.shard_weights=true to share the weights"
        )
    return {name: value for name, value in section.items() if name != "tensor"}


class ParallelConfig(BaseModel):
    """Degrees of the axes; ``None`` lets :func:`parallel.placement.find_placement` choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: int = Field(1, ge=1, description="Independent model replicas, each with its own prompts.")
    cfg: int | None = Field(
        1, ge=1, description="2 puts the cond and uncond branches on different ranks; null does so where it fits."
    )
    ulysses: int | None = Field(None, ge=1, description="Ranks that exchange attention heads; divides the heads.")
    ring: int | None = Field(None, ge=1, description="Ranks that pass keys and values around; any number.")
    goal: Literal["latency", "throughput"] = Field(
        "latency",
        description="What open degrees are chosen for. throughput: if data is not given, as many replicas as there are "
        "videos and as the model fits into, before ranks share a video.",
    )
    shard_weights: bool = Field(
        False, description="Ranks of a replica share its weights out; each gathers a block when it runs."
    )

    @model_validator(mode="before")
    @classmethod
    def _word(cls, section: Any) -> Any:
        if isinstance(section, str) and section != AUTO:
            raise ValueError(f"parallel is {section!r}, which is neither the word {AUTO} nor a section of keys")
        return _without_tensor(spell_out(section))

    @property
    def is_auto(self) -> bool:
        """Whether the layout is chosen for the machine; the first rank then prints it."""
        return self.cfg is None

    @property
    def seeks_replicas(self) -> bool:
        """Whether ``data`` is left open, to be chosen for throughput."""
        return self.goal == "throughput" and "data" not in self.model_fields_set

    @property
    def degrees(self) -> Degrees:
        """The layout of the ranks.

        Raises:
            ValueError: a degree is still open; :mod:`engine.checks` fills it.
        """
        if self.cfg is None or self.ulysses is None or self.ring is None:
            raise ValueError(f"A degree of the layout is still open: {self!r}.")
        return Degrees(self.data, self.cfg, self.ulysses, self.ring)

    def with_degrees(self, degrees: Degrees) -> Self:
        """The section with no degree left open."""
        return self.model_copy(update=asdict(degrees))
