"""A few layers of a large model: a computed and a skipped step, their memory, and a compiled block."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from engine.checks.compiler import check_compiler
from engine.errors import MachineUnfit
from launch.check.finding import Finding, judged, not_here
from launch.check.large_model import LargeModel, Step, Steps, large_model
from launch.check.limits import LATENTS_ERROR, MEMORY_OVER_FORMULA, SKIP_SHARE_OF_STEP, STEP_SHARE_OF_PEAK
from launch.check.site import Site
from launch.check.video import config_for, loaded, make, relative_error, request_of

_STEPS = 8


def layers(site: Site) -> Finding:
    """Four layers with random weights on one rank: milliseconds, TFLOP/s, and memory against the formula."""
    from engine.components.wan.parts import PARTS
    from engine.execution.peak import measure_peak_flops
    from launch.check.live_memory import measured_peak
    from parallel.ranks import Ranks

    model = large_model(site.device)
    adapter = PARTS.adapter(model.transformer(site.device))
    ranks = Ranks(device=site.device)
    done = Steps(model, adapter, ranks, _STEPS).run()
    with measured_peak(site.device) as peak:
        Steps(model, adapter, ranks, _STEPS).run()
    rate = measure_peak_flops(site.device, model.dtype)
    return judge(site.kind, model, done, rate, peak.num_bytes)


def judge(kind: str, model: LargeModel, done: Sequence[Step], rate: float, peak_bytes: int) -> Finding:
    """What steps come to.

    Args:
        rate: FLOP/s of matrix products on the device. peak_bytes: held beside the weights.
    """
    computed = median(step.seconds for step in done[1:] if not step.skipped)
    skips = [step.seconds for step in done if step.skipped]
    short, slow = [] if skips else ["no step was skipped"], []
    skipped = median(skips) if skips else computed
    flops = _flops(model) / computed
    formula = _formula_bytes(model)
    limits = (STEP_SHARE_OF_PEAK.on(kind), SKIP_SHARE_OF_STEP.on(kind), MEMORY_OVER_FORMULA.on(kind))
    if flops < limits[0] * rate:
        slow.append(f"a computed step has {flops / rate:.2f} of the rate of matrix products, below {limits[0]:g}")
    if skipped > limits[1] * computed:
        slow.append(f"a skipped step takes {skipped / computed:.2f} of a computed one, above {limits[1]:g}")
    if peak_bytes > limits[2] * formula:
        short.append(f"{peak_bytes / 1e9:.3g} GB are held, above {limits[2]:g} of {formula / 1e9:.3g} by the formula")
    figure = (
        f"{model}: computed {1000 * computed:.0f} ms, {flops / 1e12:.3g} TFLOP/s ({flops / rate:.2f} of products); "
        f"skipped {1000 * skipped:.0f} ms; {peak_bytes / 1e9:.3g} GB beside the weights, formula {formula / 1e9:.3g}"
    )
    return judged(
        short,
        figure,
        f"at least {limits[0]:g} of the rate of products, a skip at most {limits[1]:g} of a step, memory at most "
        f"{limits[2]:g} of the formula",
        slow,
    )


def _flops(model: LargeModel) -> float:
    """Of a computed step of both branches."""
    from engine.cost.flops import computed, step_flops
    from engine.cost.lanes import LaneInputs

    lane = LaneInputs(model.tokens, model.text_tokens)
    return float(sum(step_flops(model.shape, [(lane, computed(model.shape))] * 2).values()))


def _formula_bytes(model: LargeModel) -> int:
    """What the cache and a step hold beside the weights."""
    from engine.cost.memory import estimate
    from parallel.degrees import Degrees

    found = estimate(model.published, Degrees(), video=model.video, block_bytes=model.dtype.itemsize)
    return found.cache + found.step


def compiled_block(site: Site) -> Finding:
    """The small model with compiled blocks gives the latents of the eager one."""
    if site.kind == "cpu":
        return not_here("compiling takes minutes on a CPU")
    eager = config_for(site)
    compiled = eager.model_copy(update={"runtime": eager.runtime.model_copy(update={"compile": True})})
    try:
        check_compiler(compiled)
    except MachineUnfit as unfit:
        return not_here(str(unfit).rstrip("."))
    results = []
    for config in (eager, compiled):
        with loaded(config) as engine:
            results.append(make(engine, request_of(config)).latents)
    error, limit = relative_error(results[1], results[0]), LATENTS_ERROR.on(site.kind)
    short = [] if error <= limit else [f"compiled latents are {error:.1e} from eager ones, above {limit:g}"]
    return judged(short, f"latents {error:.1e} from eager ones", f"at most {limit:g}")
