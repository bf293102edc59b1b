"""The lines of a check, in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from launch.jobs.config import JobConfig
from parallel.degrees import Degrees

_LINES = "launch.check.lines."


@dataclass(frozen=True)
class Line:
    """One statement about this machine.

    function: "module:name", called with a :class:`launch.check.site.Site` and the arguments; returns a
    :class:`launch.check.finding.Finding`. seconds: after which it has fallen short, by device. on_all_ranks: collective
    over all of them; else the first rank alone runs it.
    """

    name: str
    about: str
    function: str
    cuda_seconds: float
    cpu_seconds: float
    on_all_ranks: bool = False
    arguments: tuple[Any, ...] = ()

    def seconds(self, kind: str) -> float:
        """The limit for "cuda" or "cpu"."""
        return self.cuda_seconds if kind == "cuda" else self.cpu_seconds


_FIRST = (
    Line("versions", "what is installed fits together and can be imported", f"{_LINES}versions:versions", 120, 60),
    Line("float32 products", "float32 is float32: no TF32", f"{_LINES}products:float32_products", 60, 30),
    Line("cards alike", "all ranks compute alike fast", f"{_LINES}products:cards_alike", 60, 60, True),
    Line("copies", "between host and device", f"{_LINES}copies:copies", 60, 30),
    Line("links", "bandwidth and latency between ranks", f"{_LINES}links:links", 120, 60, True),
    Line("attention kernels", "outputs, log-sum-exps, speed", f"{_LINES}kernels:attention_kernels", 240, 60),
    Line("small model", "float32 against the stored result", f"{_LINES}small_model:float32", 120, 60),
    Line("requests in a row", "a request leaves nothing to the next", f"{_LINES}small_model:in_a_row", 120, 60),
    Line("small model in bfloat16", "finite, and near float32", f"{_LINES}small_model:bfloat16", 120, 60),
)
_LAST = (
    Line("two experts", "take turns, request after request", f"{_LINES}experts:two_experts", 120, 60, True),
    Line("host synchronisations", "of one denoise step", f"{_LINES}synchronisations:synchronisations", 120, 30),
    Line("large model's layers", "a computed and a skipped step", f"{_LINES}layers:layers", 240, 60),
    Line("compiled block", "equal to the eager one, compiled once", f"{_LINES}layers:compiled_block", 240, 60),
    Line("rank 0 of 8", "its compute, without communication", f"{_LINES}fake_ranks:rank_of_eight", 180, 60),
    Line("VAE decode", "in its dtypes", f"{_LINES}decode:decode", 180, 60),
    Line("killed and resumed", "equal to the uninterrupted run", f"{_LINES}resume:killed_and_resumed", 240, 120),
    Line("stopped rank", "the error names the rank that hangs", f"{_LINES}hang:stopped_rank", 240, 180),
)


def lines_for(ranks: int, given: JobConfig) -> list[Line]:
    """The lines for that many ranks.

    Args:
        given: the configuration of the small model.
    """
    heads = 1
    if ranks > 1:
        from engine.models.facts import read_facts

        heads = read_facts(given.model.path).num_heads
    layouts = [
        Line(_name(*layout), "audited; the video of one rank", f"{_LINES}layouts:layout", 120, 60, True, layout)
        for layout in _layouts(ranks, heads)
    ]
    return [*_FIRST, *layouts, *_LAST]


def _layouts(ranks: int, heads: int) -> Iterator[tuple[Degrees, bool]]:
    """Every layout of one replica on all ranks, one with the weights shared out, and one of replicas. The bool is
    whether weights are shared out."""
    if ranks == 1:
        return
    for cfg in (1, 2):
        sequence, rest = divmod(ranks, cfg)
        if not rest:
            for ulysses in range(sequence, 0, -1):
                if sequence % ulysses == 0 and heads % ulysses == 0:
                    yield Degrees(cfg=cfg, ulysses=ulysses, ring=sequence // ulysses), False
    yield Degrees(ring=ranks), True
    yield Degrees(data=ranks), False


def _name(degrees: Degrees, shared: bool) -> str:
    given = [f"{axis} {degree}" for axis, degree in asdict(degrees).items() if degree > 1]
    return f"layout {' x '.join(given)}" + (" with weights shared out" if shared else "")
