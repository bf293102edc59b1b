"""What a user may say about the layout of the ranks."""

from pydantic import BaseModel, ConfigDict, Field


class ParallelConfig(BaseModel):
    """Degrees of the four axes; ``None`` lets :func:`parallel.degrees.resolve_degrees` choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: int = Field(1, ge=1, description="Independent model replicas, each with its own prompts.")
    cfg: int = Field(1, ge=1, description="2 puts the cond and uncond branches on different ranks.")
    ulysses: int | None = Field(None, ge=1, description="Ranks that exchange attention heads; divides the heads.")
    ring: int | None = Field(None, ge=1, description="Ranks that pass keys and values around; any number.")
