"""What a skipped step of a large model reads and writes on a GPU, counted on meta tensors."""

import pytest
import torch

from dicache.config import CacheConfig
from dicache.controller import Controller, Observation
from tests.support.memory_traffic import MemoryTraffic
from tests.support.toy import COND, only, steps

TOKENS, DIM = 75_600, 5120  # Wan 14B, 1280 x 720 x 81
GB = 10**9


def count_skips(config: CacheConfig, tokens: int = TOKENS) -> list[MemoryTraffic]:
    """The traffic of the first and the second skip after two computed steps."""
    controller = Controller(config, [COND], 6, 40)
    counted = []
    for step in steps(4):
        x, probe, output = (torch.empty(1, tokens, DIM, dtype=torch.bfloat16, device="meta") for _ in range(3))
        latents = torch.empty(1, tokens, 64, device="meta")
        shown = Observation(x, probe, {name: latents for name in controller.step_signals})
        with MemoryTraffic() as traffic:
            controller.partial_sums(step, COND, shown)
            probe.sum(dtype=torch.float32).isfinite()  # of the agreement
            numbers = [1.0] * controller.num_sums(step, COND)
            plan = controller.decide(step, {COND: numbers})[COND]
            if only(plan).action == "skip":
                controller.estimate(COND, controller.cached_segments[0], shown, probe)
                counted.append(traffic)
        if only(plan).action != "skip":
            controller.record(COND, controller.cached_segments[0], shown, probe, output)
            if controller.needs_velocity:
                controller.record_velocity(COND, shown, latents.bfloat16())
    assert len(counted) == 2
    return counted


@pytest.mark.parametrize("tokens", [TOKENS, TOKENS // 4])
def test_a_skipped_step_moves_little(tokens: int) -> None:
    first, second = count_skips(CacheConfig(warmup_ratio=None, warmup_steps=2, threshold=1e9), tokens)
    tensor = tokens * DIM * 2
    # read: probe, its predecessor, x, an older probe residual, the probe for the agreement, x, two residuals
    assert 9 * tensor <= second.moved_bytes <= 9.1 * tensor
    assert 10 * tensor <= first.moved_bytes <= 10.1 * tensor < 8 * GB  # and the newer probe residual, once
    assert second.kernel_bytes <= 26 * tensor and second.launches <= 8 * 185 * tokens / TOKENS + 30


def test_narrow_tensors_are_not_cut_by_the_width_of_the_model() -> None:
    """EasyCache looks at latents and velocities, of 64 numbers a token."""
    config = CacheConfig(method="easycache", warmup_ratio=None, warmup_steps=2, threshold=1e9, force_last=False)
    assert all(traffic.launches < 60 for traffic in count_skips(config))


def test_what_is_moved_is_what_the_cache_does_not_hold() -> None:
    """The counter itself: a tensor used twice comes from memory once, if it fits; a large one, twice."""
    for tokens, times in ((1000, 1), (8000, 2)):
        large = torch.empty(1, tokens, DIM, dtype=torch.bfloat16, device="meta")
        with MemoryTraffic() as traffic:
            for _ in range(2):
                large.sum()
        assert traffic.launches == 2 and traffic.kernel_bytes == 2 * (large.nbytes + 2)
        assert times * large.nbytes <= traffic.moved_bytes <= times * large.nbytes + 4
