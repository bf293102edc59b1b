"""Inner products of the velocities of uncached runs, and the least-squares fits that follow from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

DEPTH = 3
"""Computed steps that an estimate is made of."""
TINY = 1e-9
"""Added to the diagonal of the normal equations, relative to their trace: two velocities may be almost equal."""


@dataclass(frozen=True)
class Products:
    """Inner products of the velocities of an uncached run, mean over some prompts.

    Args:
        branches: names of the guidance branches.
        mixing: the weight of each branch's velocity in the guided velocity; none of them is 0.
        rows: the lower triangle, diagonal included; the row number is ``step * len(branches) + branch``.

    Raises:
        ValueError: the rows are not those of a lower triangle.
    """

    branches: tuple[str, ...]
    mixing: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.rows] != list(range(1, len(self.rows) + 1)):
            raise ValueError("The rows are not those of a lower triangle.")

    def of(self, i: int, j: int) -> float:
        """The inner product of rows ``i`` and ``j``, in either order."""
        return self.rows[max(i, j)][min(i, j)]

    def names(self, steps: Sequence[int]) -> list[int]:
        """Row numbers of those steps, branch by branch."""
        return [step * len(self.branches) + branch for step in steps for branch in range(len(self.branches))]

    def alone(self, branch: str) -> "Products":
        """The products of one branch, as if the run had no other."""
        stride, offset = len(self.branches), self.branches.index(branch)
        rows = tuple(self.rows[i][offset : i + 1 : stride] for i in range(offset, len(self.rows), stride))
        return Products((branch,), (1.0,), rows)

    def fit(self, step: int, known: Sequence[int]) -> list[float]:
        """Weights of the branches' velocities at the ``known`` steps whose sum is nearest to the guided velocity of
        ``step``, over all prompts together: least squares for each step (L2P, arXiv 2604.26365), here with weights of
        their own for each branch. In the order of :meth:`names`."""
        names = self.names(known)
        own = self.names([step])
        towards = [sum(m * self.of(o, n) for m, o in zip(self.mixing, own, strict=True)) for n in names]
        return solve([[self.of(i, j) for j in names] for i in names], towards)

    def miss(self, step: int, known: Sequence[int], weights: Sequence[float]) -> float:
        """‖v - v̂‖ of the guided velocity at ``step`` for these weights, the root of the mean square over prompts."""
        rows = [*self.names([step]), *self.names(known)]
        signed = [*self.mixing, *(-weight for weight in weights)]
        pairs = zip(rows, signed, strict=True)
        square = sum(a * b * self.of(i, j) for i, a in pairs for j, b in zip(rows, signed, strict=True))
        return math.sqrt(max(square, 0.0))


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a positive definite system by Cholesky's factorisation, with ``TINY`` of the trace added to the diagonal.

    It is written out because every rank solves the system, and a library may round differently on another machine.

    Raises:
        ValueError: the matrix is not positive definite.
    """
    size = len(right)
    ridge = TINY * sum(matrix[i][i] for i in range(size))
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] + (ridge if i == j else 0.0) - sum(lower[i][k] * lower[j][k] for k in range(j))
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
