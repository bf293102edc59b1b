"""A calibration that is wrong on purpose: all that it says of one step, it says of another.

python -m tests.support.shuffled RIGHT.json WRONG.json
"""

import random
import sys
from pathlib import Path

from dicache.calibration.file import Calibration, ComputeBudget, read_calibration


def shuffled(right: Calibration, seed: int = 0) -> Calibration:
    """Inner products and lists with all steps but the first in another order; sizes are the sampler's and stay."""
    order = list(range(1, right.steps))
    random.Random(seed).shuffle(order)
    order = [0, *order]  # what was said of step i is said of step order[i]
    from_step = [order.index(step) for step in range(right.steps)]
    products, branches = right.as_products(), len(right.branches)
    rows = [from_step[row // branches] * branches + row % branches for row in range(right.steps * branches)]
    return right.model_copy(
        update={
            "products": tuple(tuple(products.of(rows[i], rows[j]) for j in range(i + 1)) for i in range(len(rows))),
            "budgets": tuple(
                ComputeBudget(compute=tuple(sorted(order[step] for step in budget.compute)), damage=budget.damage)
                for budget in right.budgets
            ),
        }
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(shuffled(read_calibration(Path(sys.argv[1]))).model_dump_json())
