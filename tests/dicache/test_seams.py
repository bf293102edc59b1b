"""Methods that do not exist yet fit in without a change: other sums, deeper histories, the sampler's step sizes.

They are written as the next methods will be, from outside the package, and run through the controller.
"""

from dataclasses import dataclass

import pytest
import torch

from dicache.config import CacheConfig
from dicache.estimators.estimator import Estimate
from dicache.estimators.reuse import Reuse
from dicache.gates.fixed import FixedGate
from dicache.gates.gate import Vote
from dicache.methods import Method
from dicache.sums import Operand
from tests.support.toy import COND, NUM_BLOCKS, UNCOND, block, drive, inputs, steps

P = [Operand("probe_residual", age) for age in range(4)]


@dataclass(frozen=True)
class Inner:
    """⟨a - b, c - d⟩"""

    operands: tuple[Operand, Operand, Operand, Operand]

    def of(self, chunk):
        a, b, c, d = (chunk[operand] for operand in self.operands)
        return torch.sum((a - b) * (c - d), dim=-1)


@dataclass(frozen=True)
class Ridge:
    """Least squares on the probe's forward differences, shrunk toward reuse; as many as the history has."""

    strength: float = 0.3
    depth = 3
    anchor = "input"
    sums = tuple(
        Inner((P[i], P[j], P[k], P[m]))
        for i, j, k, m in [(1, 2, 1, 2), (0, 1, 1, 2), (2, 3, 2, 3), (1, 2, 2, 3), (0, 1, 2, 3)]
    )

    def estimate(self, step, history, sums):
        values = [sums[term] for term in self.sums if term in sums]
        if not values:
            return Estimate((1.0,))
        if len(values) == 2:
            a = values[1] / ((1 + self.strength) * values[0])
            return Estimate((1 + a, -a))
        g11, v1, g22, g12, v2 = values
        g = torch.tensor([[g11 * (1 + self.strength), g12], [g12, g22 * (1 + self.strength)]], dtype=torch.float64)
        a, b = torch.linalg.solve(g, torch.tensor([v1, v2], dtype=torch.float64)).tolist()
        return Estimate((1 + a, b - a, -b))


@dataclass(frozen=True)
class StepSizeGate:
    """Accumulates the sampler's step sizes and the weight that the estimate puts on older steps."""

    budget: float
    sums = ()

    def may_skip(self, step, lane):
        return True

    def vote(self, step, history, sums, estimate):
        travelled = sum(abs(c) for c in estimate.coefficients) * (step.sigma - step.sigma_next)
        accumulated = history.accumulated + travelled
        return Vote(accumulated < self.budget, travelled, accumulated)


def run(monkeypatch, method, **kwargs):
    monkeypatch.setattr("dicache.segments.build_method", lambda *_: method)
    return drive(CacheConfig(), **kwargs)


def test_inner_products_and_a_deeper_history(monkeypatch):
    gate = FixedGate({lane: frozenset({1, 3, 5, 7, 8, 9}) for lane in (COND, UNCOND)})
    result = run(monkeypatch, Method(gate, Ridge()), num_steps=10)
    assert result.actions() == "cscscscsss"
    assert [len(d[COND].coefficients) for d in result.decisions] == [0, 1, 0, 2, 0, 3, 0, 3, 3, 3]
    # three probe residuals and three residuals: the deepest that the sums and the estimator name
    assert result.controllers[0].cache_bytes == 2 * 6 * inputs(COND, steps(10)[0]).nbytes
    step = steps(10)[7]
    assert result.controllers[0].probe_blocks == 1

    def forward(index, depth):
        hidden = inputs(COND, steps(10)[index])
        for number in range(depth):
            hidden = block(hidden, number)
        return hidden - inputs(COND, steps(10)[index])

    p = [forward(index, 1).double().flatten() for index in (7, 6, 4, 2)]
    basis = torch.stack([p[1] - p[2], p[2] - p[3]])
    gram = basis @ basis.T
    a, b = torch.linalg.solve(gram + 0.3 * gram.diag().diag(), basis @ (p[0] - p[1])).tolist()
    assert result.decisions[7][COND].coefficients == pytest.approx((1 + a, b - a, -b), rel=1e-5)
    r = [forward(index, NUM_BLOCKS) for index in (6, 4, 2)]
    expected = inputs(COND, step) + (1 + a) * r[0] + (b - a) * r[1] - b * r[2]
    torch.testing.assert_close(result.outputs[7][COND], expected, rtol=1e-4, atol=1e-5)
    assert run(monkeypatch, Method(gate, Ridge()), num_steps=10, ranks=3).actions() == result.actions()


def test_the_samplers_step_sizes_without_any_data(monkeypatch):
    result = run(monkeypatch, Method(StepSizeGate(0.16), Reuse()), num_steps=20)
    assert result.actions() == "c" + ("sssc" * 5)[:19]
    assert result.controllers[0].probe_blocks == 0
    assert all(result.controllers[0].num_sums(step, COND) == 0 for step in steps(20))
