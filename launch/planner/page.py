"""The page `docs/plan.md`, written from the planner itself.

python -m launch.planner.page > docs/plan.md
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.models.catalog import CATALOG
from launch.planner.cards import CARDS
from launch.planner.choice import describe
from launch.planner.cluster import parse_cluster
from launch.planner.document import Layout, Limits, Part, PlanDocument, Row, Seconds, StepSeconds
from launch.planner.layouts import Question
from launch.planner.links import LINKS
from launch.planner.published import FIGURES, NOT_EXPRESSED, Figure
from launch.planner.published_fit import both_ways, error_of, errors_of, predicted_seconds
from launch.planner.scaling import scale, stops_paying
from launch.planner.skipping import Skipping
from launch.planner.software import FITTED
from launch.planner.workload import workload_of

HEAD = """# Planning a cluster

Written by `python -m launch.planner.page`; a test compares it with the code.

    lockstep plan configs/wan2.2-t2v-a14b.yaml --cluster 4x8xH100 --price-per-gpu-hour 2.5 --report plan.json

predicts seconds a video with the cache off and on, videos an hour, memory and cost on a cluster that need not be here,
recommends a layout and says why, and says what limits. `--goal latency` is the fastest single video, `throughput` the
most videos of a long list, `deadline --deadline 60` the fewest GPU-seconds a video that still meets it. The cluster is
nodes x GPUs x GPU; `:roce-400` behind it, or `--link`, names the link between nodes. Degrees given with `--set
parallel.KEY=VALUE` are kept, all others are open. It takes a second and needs no GPU and no weights: of a published
model only the name.

**Everything here is predicted. Nothing of it was measured on a GPU by us.**

## The model

Seconds of a step are those of its matrix products, attention, the memory traffic between them and what ranks exchange:
FLOPs and tokens are this rank's (`engine/cost/flops.py`), rates are the card's published ones times three efficiencies,
transfers take latency and bytes over the link that their group crosses. Added are the cache's arithmetic, agreement,
launches, encoding, copies of weights to the host, decoding, writing. `launch/planner/` has each number with its source.

- The attention kernel is the one that `runtime.attention` gives on the card, on one rank and on many: `auto` is cuDNN's
  on H100 to B300, and torch's FlashAttention-2 on other cards. FlashAttention-3, which `auto` takes on an H100 where
  its package is installed, is planned with `--set runtime.attention=flash3`. `--attention best` or `fp8`, `--precision
  fp8` or `fp4` and `--fused` plan for what Lockstep does not have yet.
- The share of skipped steps is assumed from the method (a fixed schedule is counted), and the plan says from where;
  `--skip-share` gives another.
- Efficiency is GPU-seconds of a video on the fewest GPUs that it fits on, over those here; under 50%, more GPUs for one
  video are said not to pay, and replicas are better.
- `--calibrate bench.json` (or its folder; several) fits the rates to what `lockstep bench` has measured on such a
  device. A CPU, `--cluster 1x2xcpu`, has no published rates and needs it.
"""


def page() -> str:
    """The whole page."""
    sections = (HEAD, _compared(), _scaling(), _hardware(), _schema())
    return "\n".join(sections)


def _compared() -> str:
    ways = both_ways()
    efficiencies, fitted, _ = ways[0]
    lines = [
        "## Against published figures",
        "",
        f"Three efficiencies are fitted to every second figure: products reach {FITTED.products:.2f} of the published "
        f"peak, attention {FITTED.attention:.2f} of what kernels are published with, and the counted memory traffic "
        f"counts {FITTED.elementwise:.2f} times. Rows marked *fit* were fitted to; the others judge.",
        "",
        "| judged by | median error | largest |",
        "|---|---|---|",
    ]
    for (rates, own, other), words in zip(ways, ("first", "second"), strict=True):
        lines += [
            "| the half that was not fitted to ({} half fitted) | {:.1%} | {:.0%} |".format(
                words, *errors_of(other, rates)
            ),
            "| the half that was fitted to ({}) | {:.1%} | {:.0%} |".format(words, *errors_of(own, rates)),
        ]
    later = [figure for figure in FIGURES if figure.use == "later"]
    lines.append(
        "| figures that were never fitted to, below | {:.1%} | {:.0%} |".format(*errors_of(later, efficiencies))
    )
    lines += [
        "",
        "| figure | | linear layers, attention | published, s | predicted, s | error | assumed, or why not compared |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for figure in FIGURES:
        if figure.use != "later":
            kind = "shown only" if figure.use == "shown" else "fit" if figure in fitted else ""
            lines.append(_figure(figure, kind))
    lines += ["", "Never fitted to:", ""]
    lines += [
        "| figure | | linear layers, attention | published, s | predicted, s | error | assumed |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_figure(figure, "") for figure in later]
    sources = dict.fromkeys(figure.source for figure in FIGURES if figure.source != "the same")
    lines += [
        "",
        "Sources: " + "; ".join(sources) + ".",
        "",
        "Not expressed: " + "; ".join(f"{a} ({b})" for a, b in NOT_EXPRESSED) + ".",
    ]
    lines += ["", *_MISSES, ""]
    return "\n".join(lines)


_MISSES = (
    "Where it misses, and why. *xDiT on 8 GPUs*: 41% of linear scaling on NVLink is 1.5 s a step that no cost here",
    "accounts for. *72 GPUs on one video*: 2,100 tokens a GPU, where each kernel takes microseconds; the model has no",
    "wave quantisation and no jitter between ranks, so beyond some 32 GPUs it is a lower bound. *VibeHPC offline*: a",
    "faster attention than its single stream suggests; the source does not say which. *MagCache*: the share of skipped",
    "steps is not published. *HunyuanVideo on 8*: its decoding on one rank takes longer than predicted.",
)


def _figure(figure: Figure, kind: str) -> str:
    software = figure.software
    return (
        f"| {figure.name} | {kind} | {software.precision}, {software.kernel} | {figure.seconds:.2f} | "
        f"{predicted_seconds(figure, FITTED):.2f} | {error_of(figure, FITTED):+.0%} | {figure.note or figure.assumed} |"
    )


def _scaling() -> str:
    lines = [
        "## More GPUs for one video (predicted)",
        "",
        "Nodes of 8 H100 with NVLink, InfiniBand NDR between them, Lockstep as it is (bf16, eager), DiCache skipping",
        "60% of the steps, each recipe's video. Seconds a video (efficiency) without the cache and with it, the gain,",
        "and the videos an hour of a long list (*many*).",
        "",
    ]
    for name, steps in (("Wan 2.1 T2V 14B", 50), ("Wan 2.2 T2V A14B", 40), ("HunyuanVideo", 50)):
        lines += _table(name, steps)
    return "\n".join(lines)


def _table(name: str, steps: int) -> Iterator[str]:
    model = next(row for row in CATALOG if row.name == name)
    skipping = Skipping(0.6, "DiCache's authors", probe_blocks=1)
    branches = model.facts.num_branches(2.0)
    question = Question(workload_of(model, model.facts, branches, steps, skipping), fitted=FITTED)
    rows = scale(question, parse_cluster("64x8xH100"))
    yield from (
        f"**{name}**, {' x '.join(map(str, model.video))}, {steps} steps",
        "",
        "| GPUs | fastest layout | cache off | cache on | gain | many |",
        "|---|---|---|---|---|---|",
    )
    for row in rows:
        on, off = row.fastest, row.fastest_without_cache
        most = f"{row.most.videos_per_hour:,.0f}" if row.most else "-"
        if on is None or off is None or row.efficiency_on is None or row.efficiency_off is None:
            yield f"| {row.gpus} | does not fit | | | | {most} |"
            continue
        yield (
            f"| {row.gpus} | {describe(on)} | {off.cache_off:.1f} ({row.efficiency_off:.0%}) | {on.cache_on:.1f} "
            f"({row.efficiency_on:.0%}) | {off.cache_off / on.cache_on:.2f} | {most} |"
        )
    limits = [stops_paying(rows, cached=cached) for cached in (False, True)]
    yield from (
        "",
        f"More than {limits[0]} GPUs without the cache, {limits[1]} with it, have an efficiency under 50%.",
        "",
    )


def _hardware() -> str:
    lines = [
        "## Hardware",
        "",
        "Dense, published by the vendors (`launch/planner/cards.py`, `links.py` have the sources).",
        "",
    ]
    lines += ["| GPU | bf16 | fp8 | fp4, TFLOP/s | GB | TB/s | inside a node |", "|---|---|---|---|---|---|---|"]
    for card in CARDS.values():
        rates = [f"{rate / 1e12:,.0f}" if rate else "-" for rate in (card.bf16_flops, card.fp8_flops, card.fp4_flops)]
        memory = f"{card.memory_bytes / 1e9:.0f} | {card.memory_bandwidth / 1e12:.2f}"
        lines.append(f"| {card.name} | {' | '.join(rates)} | {memory} | {card.inside} |")
    lines += ["", "| link | GB/s one way | share reached | latency, us | |", "|---|---|---|---|---|"]
    for link in LINKS.values():
        shared = "shared by a node" if link.shared_by_node else "for each GPU"
        rate = f"{link.bytes_per_second / 1e9:.1f} | {link.share:.0%} | {link.latency_seconds * 1e6:.0f}"
        lines.append(f"| {link.name} | {rate} | {shared} |")
    return "\n".join([*lines, ""])


def _schema() -> str:
    lines = ["## The report, schema 1", "", "`--report FILE`. Scripts may rely on the names.", ""]
    for part in (PlanDocument, Seconds, StepSeconds, Layout, Limits, Row):
        lines += [
            f"**{part.__name__}**: {(part.__doc__ or '').strip()}",
            "",
            "| key | what |",
            "|---|---|",
            *_keys(part),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _keys(part: type[Part]) -> Iterator[str]:
    for name, field in part.model_fields.items():
        kind = getattr(field.annotation, "__name__", str(field.annotation)).replace("launch.planner.document.", "")
        yield f"| `{field.alias or name}` | {field.description or kind.replace('|', 'or')} |"


if __name__ == "__main__":
    print(page(), end="")
