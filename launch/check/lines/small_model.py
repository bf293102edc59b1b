"""The small model on one rank: against the stored result, in bfloat16, and one request after another."""

from __future__ import annotations

from launch.check.finding import Finding, judged
from launch.check.limits import BFLOAT16_ERROR, LATENTS_ERROR
from launch.check.reference import read_reference
from launch.check.site import Site
from launch.check.video import config_for, first_difference, loaded, make, relative_error, request_of

_CPU_STEPS = 4


def float32(site: Site) -> Finding:
    """In float32 the decisions are those of the stored result, and the latents near its."""
    config = config_for(site)
    with loaded(config) as engine:
        made = make(engine, request_of(config))
    expected, actions = read_reference()
    error, limit = relative_error(made.latents, expected), LATENTS_ERROR.on(site.kind)
    short = [f"another decision: {difference}"] if (difference := first_difference(made.actions, actions)) else []
    if not error <= limit:
        short.append(f"the latents are off by {error:.1e}, above {limit:g}: {LATENTS_ERROR.reason}")
    skipped = sum(action == "skip" for _, _, action in made.actions)
    figure = f"latents {error:.1e} from the stored ones, {skipped} of {len(made.actions)} branch steps skipped"
    return judged(short, figure, f"at most {limit:g}, the same decisions as on a CPU")


def bfloat16(site: Site) -> Finding:
    """In bfloat16 the latents are finite, and near the stored ones of float32."""
    config = config_for(site, dtype="bfloat16")
    cache = config.cache.changed({"threshold": 0.0})
    # a CPU takes ten times as long as in float32
    steps = config.sampling.steps if site.kind == "cuda" else _CPU_STEPS
    sampling = config.sampling.model_copy(update={"steps": steps})
    config = config.model_copy(update={"cache": cache, "sampling": sampling})
    with loaded(config) as engine:
        made = make(engine, request_of(config))
    exact = config_for(site).model_copy(update={"cache": cache, "sampling": sampling})
    with loaded(exact) as engine:
        expected = make(engine, request_of(exact)).latents
    error, limit = relative_error(made.latents, expected), BFLOAT16_ERROR.on(site.kind)
    short = [f"off by {error:.1e}, above {limit:g}: {BFLOAT16_ERROR.reason}"] if not error <= limit else []
    return judged(
        short, f"latents {error:.1e} from float32, without skips", f"at most {limit:g}: {BFLOAT16_ERROR.reason}"
    )


def in_a_row(site: Site) -> Finding:
    """The same request after another one gives the same bits: nothing of the cache is left."""
    config = config_for(site)
    # without a warm-up, whose steps would replace what another request has left before it is used
    cache = config.cache.changed({"threshold": 0.5, "warmup_ratio": 0.0})
    config = config.model_copy(update={"cache": cache})
    with loaded(config) as engine:
        request = request_of(config)
        first = make(engine, request)
        make(engine, request_of(config, "a green square moving up on a gray background", seed=1))
        again = make(engine, request)
    short = []
    if difference := first_difference(again.actions, first.actions):
        short.append(f"after another request it decides otherwise: {difference}")
    if first.sha256 != again.sha256:
        error = relative_error(again.latents, first.latents)
        short.append(
            f"after another request its latents differ by {error:.1e}: the cache, or a kernel that is not "
            "deterministic, lets one request change the next"
        )
    return judged(short, f"sha256 {again.sha256[:12]} twice" if not short else "", "equal bits after another request")
