"""What a comparison of two measurements comes to, as `--report` writes it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from launch.bench.document import Part

Verdict = Literal["faster", "slower", "no difference seen", "more", "less", "equal", "not judged"]


class Row(Part):
    """One figure of both."""

    name: str
    unit: str
    a: float
    b: float
    ratio: float | None = Field(description="B over A, from the samples that both have; null where A is 0.")
    low: float | None = Field(
        description="With `high`, holds the true ratio in 97 of 100 cases or more; null where the noise is not known."
    )
    high: float | None
    verdict: Verdict = Field(
        description="`faster` and `slower` only where the interval leaves out 1; `more`, `less` and `equal` of counts; "
        "`not judged` of a time that was measured too seldom to know its noise."
    )


class Comparison(Part):
    """B compared with A."""

    a: str
    b: str
    paired: bool = Field(description="Whether both took turns in one run, so that the machine's drift is in neither.")
    notes: list[str] = Field(description="In what the two differ, and what that means for the ratios.")
    slower_by: float = Field(description="The share by which B may be slower.")
    rows: list[Row]
    slower: list[str] = Field(description="The rows for which B is slower beyond the noise by more than that share.")

    @property
    def is_slower(self) -> bool:
        """Whether B is slower than is allowed."""
        return bool(self.slower)
