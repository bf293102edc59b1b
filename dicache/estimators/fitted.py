"""How, by calibration: what makes up a skipped step's velocity, fitted to uncached runs of other prompts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from dicache.estimators.estimator import Estimate
from dicache.steps import History, Step
from dicache.sums import Sum

DEPTH = 3
"""Computed steps that an estimate is made of."""
TINY = 1e-9
"""Added to the normal equations, relative to their trace: two velocities may be all but equal."""


@dataclass(frozen=True)
class Products:
    """Inner products of the velocities of an uncached run, mean over some prompts.

    Args:
        branches: names of the guidance branches.
        mixing: of what the guided velocity is made: its weight of each branch, none of them 0.
        rows: the lower triangle, diagonal included; row ``step * len(branches) + branch``.
    """

    branches: tuple[str, ...]
    mixing: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.rows] != list(range(1, len(self.rows) + 1)):
            raise ValueError("The rows are not those of a lower triangle.")

    def of(self, i: int, j: int) -> float:
        return self.rows[max(i, j)][min(i, j)]

    def names(self, steps: Sequence[int]) -> list[int]:
        """Rows of those steps, branch by branch."""
        return [step * len(self.branches) + branch for step in steps for branch in range(len(self.branches))]

    def alone(self, branch: str) -> "Products":
        """Those of one branch, as if it were all there is."""
        stride, offset = len(self.branches), self.branches.index(branch)
        rows = tuple(self.rows[i][offset : i + 1 : stride] for i in range(offset, len(self.rows), stride))
        return Products((branch,), (1.0,), rows)

    def fit(self, step: int, known: Sequence[int]) -> list[float]:
        """Weights of the branches' velocities at the ``known`` steps that come nearest to the guided velocity of
        ``step`` over all prompts together: per-step least squares (L2P, arXiv 2604.26365, in its step form), here for
        each branch of its own. In the order of :meth:`names`."""
        names = self.names(known)
        own = self.names([step])
        towards = [sum(m * self.of(o, n) for m, o in zip(self.mixing, own, strict=True)) for n in names]
        return solve([[self.of(i, j) for j in names] for i in names], towards)

    def miss(self, step: int, known: Sequence[int], weights: Sequence[float]) -> float:
        """‖v - v̂‖ of the guided velocity, the root of the mean square over the prompts."""
        rows = [*self.names([step]), *self.names(known)]
        signed = [*self.mixing, *(-weight for weight in weights)]
        pairs = zip(rows, signed, strict=True)
        square = sum(a * b * self.of(i, j) for i, a in pairs for j, b in zip(rows, signed, strict=True))
        return math.sqrt(max(square, 0.0))


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """The solution of a positive definite system, by Cholesky's factors, a trifle added to the diagonal.

    Written out, and not a library's: every rank solves it, and a library may round differently on another machine.
    """
    size = len(right)
    trifle = TINY * sum(matrix[i][i] for i in range(size))
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] + (trifle if i == j else 0.0) - sum(lower[i][k] * lower[j][k] for k in range(j))
            if i != j:
                lower[i][j] = rest / lower[j][j]
            elif rest > 0.0:
                lower[i][i] = math.sqrt(rest)
            else:
                raise ValueError("The matrix is not positive definite.")
    half: list[float] = []
    for i in range(size):
        half.append((right[i] - sum(lower[i][k] * half[k] for k in range(i))) / lower[i][i])
    solution = [0.0] * size
    for i in reversed(range(size)):
        solution[i] = (half[i] - sum(lower[k][i] * solution[k] for k in range(i + 1, size))) / lower[i][i]
    return solution


@dataclass(frozen=True)
class Fitted:
    """What least squares over the calibration's prompts makes of the computed steps that there are.

    The guided velocity is Σ wᵢ vᵢ over branches and computed steps; a lane's part of it, Σ wᵢ vᵢ over its own, is what
    its estimate has to give once the guidance has weighed it, so its coefficients are wᵢ over the branch's weight.
    """

    products: Products
    depth: ClassVar[int] = DEPTH
    sums: ClassVar[tuple[Sum, ...]] = ()

    def estimate(self, step: Step, history: History, sums: Mapping[Sum, float]) -> Estimate:
        known = [past.index for past in reversed(history.computed)][:DEPTH]
        weights, branches = self.products.fit(step.index, known), self.products.branches
        branch = branches.index(history.lane.branch)
        return Estimate(tuple(weight / self.products.mixing[branch] for weight in weights[branch :: len(branches)]))
