"""The command `plan`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.commands import options as opt
from launch.jobs.checked import announce
from launch.jobs.config import load_job_config
from launch.planner.choice import Goal

ClusterText = Annotated[
    str,
    typer.Option(
        "--cluster",
        metavar="CLUSTER",
        help="Nodes x GPUs of a node x GPU: 4x8xH100; the link between nodes may follow, as in 4x8xH100:roce-400.",
    ),
]
LinkName = Annotated[
    str | None,
    typer.Option("--link", help="Between nodes: infiniband-800, -400, -200, roce-400, -200, ethernet-100, -25, -10."),
]
GoalName = Annotated[
    Goal,
    typer.Option(
        "--goal",
        case_sensitive=False,
        help="The fastest single video, the most videos of a long list, or the cheapest layout that meets --deadline.",
    ),
]
Deadline = Annotated[
    float | None, typer.Option("--deadline", metavar="SECONDS", help="What one video may take, with --goal deadline.")
]
Price = Annotated[
    float | None, typer.Option("--price-per-gpu-hour", metavar="X", help="Adds what a video costs, in X's unit.")
]
PlanReport = Annotated[
    Path | None, typer.Option("--report", help="Write the plan as JSON (docs/plan.md); an older file is replaced.")
]
Calibrate = Annotated[
    list[Path] | None,
    typer.Option(
        "--calibrate", help="A bench.json of lockstep bench, or its folder, to fit rates to. Can be repeated."
    ),
]
SkipShare = Annotated[
    float | None,
    typer.Option("--skip-share", help="Share of the steps that the cache skips; by default assumed, as the plan says."),
]
PrecisionName = Annotated[
    Literal["bf16", "fp8", "fp4"],
    typer.Option("--precision", help="Of linear layers. Lockstep has bf16; the others are an assumption of the plan."),
]
KernelName = Annotated[
    Literal["auto", "flash2", "cudnn", "best", "fp8"],
    typer.Option(
        "--attention",
        help="The kernel: auto is the one of runtime.attention, best the fastest in bf16 that exists for the card, fp8 "
        "one in 8 bits.",
    ),
]
Fused = Annotated[
    bool, typer.Option("--fused", help="Assume that norms, activations and sums are compiled into few kernels.")
]


def plan(
    config: opt.ConfigFile,
    cluster: ClusterText,
    link: LinkName = None,
    goal: GoalName = Goal.LATENCY,
    deadline: Deadline = None,
    price_per_gpu_hour: Price = None,
    report: PlanReport = None,
    calibrate: Calibrate = None,
    skip_share: SkipShare = None,
    precision: PrecisionName = "bf16",
    attention: KernelName = "auto",
    fused: Fused = False,
    set_: opt.Overrides = None,
) -> int:
    """Predict seconds, throughput, memory and cost on a cluster that need not be here, and recommend a layout."""
    from launch.planner.report import write_report
    from launch.planner.run import PlanOptions, make_plan
    from launch.planner.screen import print_plan

    options = PlanOptions(
        cluster,
        link,
        goal,
        deadline,
        price_per_gpu_hour,
        skip_share,
        precision,
        None if attention == "auto" else attention,
        fused,
        calibrate or (),
        [override.partition("=")[0].strip() for override in set_ or ()],
    )
    planned = make_plan(load_job_config(config, set_ or (), announce), options)
    if report is not None:
        write_report(planned.document, report)
    print_plan(planned, sys.stdout)
    return 0
