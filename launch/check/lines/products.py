"""Matrix products: whether float32 is float32, and how fast each rank is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launch.check.finding import Finding, falls_short, judged
from launch.check.limits import CARD_RATE_RATIO, PRODUCT_ERROR
from launch.check.site import Site

if TYPE_CHECKING:
    from torch import Tensor

_SIZE = 1024


def float32_products(site: Site) -> Finding:
    """A product of two float32 matrices, and a linear layer, against float64; and a convolution, which torch gives to
    TF32 by default, for the record."""
    import torch
    from torch.nn import functional

    draw = torch.Generator("cpu").manual_seed(0)
    a, b = (torch.randn(_SIZE, _SIZE, generator=draw).to(site.device) for _ in range(2))
    video = torch.randn(1, 32, 3, 32, 32, generator=draw).to(site.device)
    filters = torch.randn(32, 32, 3, 3, 3, generator=draw).to(site.device)
    with torch.inference_mode():
        errors = {
            "product": _relative_error(a @ b, a.double() @ b.double()),
            "linear layer": _relative_error(functional.linear(a, b), functional.linear(a.double(), b.double())),
        }
        convolution = _relative_error(
            functional.conv3d(video, filters), functional.conv3d(video.double(), filters.double())
        )
    limit = PRODUCT_ERROR.on(site.kind)
    short = [
        f"a float32 {name} is off by {error:.1e}, above {limit:g}: unset NVIDIA_TF32_OVERRIDE, and use no TF32"
        for name, error in errors.items()
        if not error <= limit
    ]
    figure = ", ".join(f"{name} {error:.1e}" for name, error in (errors | {"convolution": convolution}).items())
    return judged(short, figure, f"at most {limit:g} of float64 (convolutions are not judged): {PRODUCT_ERROR.reason}")


def cards_alike(site: Site) -> Finding:
    """All ranks multiply matrices at once, and none is much slower."""
    import torch

    from engine.execution.peak import measure_peak_flops

    dtype = torch.bfloat16 if site.kind == "cuda" else torch.float32
    name = torch.cuda.get_device_name(site.device) if site.kind == "cuda" else "cpu"
    site.everyones("cards alike/ready", None)
    rates = site.everyones("cards alike/rates", [measure_peak_flops(site.device, dtype) / 1e12, name])
    names = sorted({name for _, name in rates})
    slowest = min(range(len(rates)), key=lambda rank: rates[rank][0])
    ratio = rates[slowest][0] / max(rate for rate, _ in rates)
    figure = f"{', '.join(f'{rate:.3g}' for rate, _ in rates)} TFLOP/s"
    if len(names) > 1:
        return falls_short(figure, f"ranks are on different cards ({', '.join(names)}), whose latents drift apart")
    limit = CARD_RATE_RATIO.on(site.kind)
    short = [f"rank {slowest} has {ratio:.2f} of the fastest one's rate, below {limit:g}"] if ratio < limit else []
    return judged([], figure, f"the slowest has {ratio:.2f} of the fastest, at least {limit:g}", short)


def _relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())
