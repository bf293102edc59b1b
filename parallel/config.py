"""What a user may say about the layout of the ranks."""

from dataclasses import asdict
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from parallel.degrees import Degrees

AUTO = "auto"


def spell_out(section: Any, before: Any = None) -> Any:
    """The section that the word auto stands for, in which every degree of a replica is open; others as they are.

    Args:
        before: the section that the word takes the place of; what is said there beside degrees stays.
    """
    if section != AUTO:
        return section
    stays = before if isinstance(before, dict) else {}
    return {**stays, "cfg": None, "ulysses": None, "ring": None}


class ParallelConfig(BaseModel):
    """Degrees of the axes; ``None`` lets :func:`parallel.placement.find_placement` choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: int = Field(1, ge=1, description="Independent model replicas, each with its own prompts.")
    cfg: int | None = Field(
        1, ge=1, description="2 puts the cond and uncond branches on different ranks; null does so where it fits."
    )
    ulysses: int | None = Field(None, ge=1, description="Ranks that exchange attention heads; divides the heads.")
    ring: int | None = Field(None, ge=1, description="Ranks that pass keys and values around; any number.")
    tensor: int = Field(1, ge=1, description="Only 1: xDiT has no tensor-parallel video model.")
    shard_weights: bool = Field(
        False, description="Ranks of a replica share its weights out; each gathers a block when it runs."
    )

    @model_validator(mode="before")
    @classmethod
    def _word(cls, section: Any) -> Any:
        if isinstance(section, str) and section != AUTO:
            raise ValueError(f"parallel is {section!r}, which is neither the word {AUTO} nor a section of keys")
        return spell_out(section)

    @property
    def is_auto(self) -> bool:
        """Whether the layout is the machine's choice, so that the user wants to hear of it."""
        return self.cfg is None

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
