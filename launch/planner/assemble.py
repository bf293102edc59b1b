"""Puts a plan's predictions into the document that is written."""

from __future__ import annotations

from collections.abc import Sequence

from launch.planner.calibration import Calibration
from launch.planner.choice import Choice
from launch.planner.cluster import Cluster
from launch.planner.document import Configured, Layout, Limits, PlanDocument, Row, Seconds, StepSeconds
from launch.planner.kernel import kernel_on
from launch.planner.layouts import Question
from launch.planner.predict import Prediction
from launch.planner.scaling import ScaleRow, stops_paying


def layout_of(prediction: Prediction) -> Layout:
    """The degrees of a prediction, for the report."""
    degrees = prediction.plan.degrees
    shares = prediction.plan.shard_weights and degrees.replica_size > 1
    return Layout(**vars(degrees), shard_weights=shares)


def assemble(
    question: Question,
    cluster: Cluster,
    choice: Choice,
    configured: Prediction | None,
    rows: Sequence[ScaleRow],
    measured: Calibration | None,
    price: float | None,
) -> PlanDocument:
    """The document of a plan.

    Args:
        configured: the layout that the configuration itself asks for.
        measured: what the rates were fitted to; None for published ones.
        price: of a GPU and hour, in any unit of money.
    """
    best, workload = choice.best, question.workload
    frames, height, width = workload.model.video
    hourly = best.videos_per_hour
    return PlanDocument(
        model=workload.model.name,
        video={"frames": frames, "height": height, "width": width, "steps": workload.steps},
        cluster={
            "nodes": cluster.nodes,
            "gpus_per_node": cluster.per_node,
            "gpu": cluster.card.name,
            "inside": cluster.inside.name,
            "between": cluster.between.name,
        },
        goal=choice.goal.value,
        assumptions={
            "precision": question.software.precision,
            "attention": _attention(question, cluster, best.plan.degrees.replica_size),
            "elementwise": "fused" if question.software.fused else "eager",
            "skip_share": workload.skipping.source,
            "rates": "measured: " + ", ".join(measured.sources) if measured else "published, with fitted efficiencies",
        },
        skip_share=workload.skipping.share,
        seconds_per_video=_seconds(best),
        step_seconds=StepSeconds(computed=best.computed_step_seconds, skipped=best.skipped_step_seconds or None),
        videos_per_hour=hourly,
        memory_bytes_per_gpu=best.memory_bytes,
        fits=best.fits,
        start_seconds=best.start_seconds,
        layout=layout_of(best),
        why=choice.why,
        configured=configured and _configured(configured),
        limits=Limits(
            by_group=best.limits(),
            by_part={**best.parts_off, **{f"{name}_on": seconds for name, seconds in best.parts_on.items()}},
            largest=next(iter(best.limits())),
        ),
        cost_per_video=None if price is None else price * best.plan.degrees.world_size / hourly,
        scaling=[_row(row) for row in rows],
        stops_paying={name: stops_paying(rows, cached=name == "cache_on") for name in ("cache_off", "cache_on")},
    )


def _configured(prediction: Prediction) -> Configured:
    return Configured(
        layout=layout_of(prediction),
        seconds_per_video=_seconds(prediction),
        videos_per_hour=prediction.videos_per_hour,
        fits=prediction.fits,
    )


def _seconds(prediction: Prediction) -> Seconds:
    return Seconds(cache_off=prediction.cache_off, cache_on=prediction.cache_on)


def _row(row: ScaleRow) -> Row:
    fastest, off = row.fastest, row.fastest_without_cache
    hourly = row.most.videos_per_hour if row.most else None
    if fastest is None or off is None or row.efficiency_off is None or row.efficiency_on is None:
        return Row(gpus=row.gpus, layout=None, seconds_per_video=None, efficiency=None, videos_per_hour=hourly)
    return Row(
        gpus=row.gpus,
        layout=layout_of(fastest),
        seconds_per_video=Seconds(cache_off=off.cache_off, cache_on=fastest.cache_on),
        efficiency=Seconds(cache_off=row.efficiency_off, cache_on=row.efficiency_on),
        videos_per_hour=hourly,
    )


def _attention(question: Question, cluster: Cluster, ranks: int) -> str:
    """The kernel that is wished, and that whose speed was taken."""
    wish = question.software.kernel
    if cluster.is_cpu or question.software.dtype == "float32":
        return wish
    kernel = kernel_on(cluster.card, wish, ranks)
    return wish if kernel == wish else f"{wish}, as fast as {kernel}"
