"""How many tokens, rows or tiles each of several ranks holds: as even as whole numbers allow. Known without torch."""

from collections.abc import Sequence

_TILES_OF_A_RANK_IN_A_ROUND = 2


def split_evenly(total: int, ranks: int) -> tuple[int, ...]:
    """The lengths of ``ranks`` shards of ``total`` tokens; the first are longer by one where it does not divide."""
    shorter, longer = divmod(total, ranks)
    return tuple(shorter + (rank < longer) for rank in range(ranks))


def split_text(total: int, ranks: int) -> tuple[int, ...]:
    """The lengths of a text's shards; the last ones are longer, since a video's first ones are: so the joint lengths
    differ by one token at most, too."""
    return split_evenly(total, ranks)[::-1]


def share_out(costs: Sequence[int], num_ranks: int) -> list[list[int]]:
    """The rank that computes each tile of a video, round for round (:mod:`parallel.tiles`).

    Args:
        costs: of each tile, in any unit.
    """
    length = num_ranks * _TILES_OF_A_RANK_IN_A_ROUND if num_ranks > 1 else 1
    loads = [0] * num_ranks
    rounds = []
    for start in range(0, len(costs), length):
        of_round = costs[start : start + length]
        owners = [0] * len(of_round)
        for i in sorted(range(len(of_round)), key=lambda i: -of_round[i]):
            owners[i] = loads.index(min(loads))
            loads[owners[i]] += of_round[i]
        rounds.append(owners)
    return rounds
