"""How many tokens, or rows, each of several ranks holds: as even as whole numbers allow. Known without torch."""


def split_evenly(total: int, ranks: int) -> tuple[int, ...]:
    """The lengths of ``ranks`` shards of ``total`` tokens; the first are longer by one where it does not divide."""
    shorter, longer = divmod(total, ranks)
    return tuple(shorter + (rank < longer) for rank in range(ranks))


def split_text(total: int, ranks: int) -> tuple[int, ...]:
    """The lengths of a text's shards; the last ones are longer, since a video's first ones are: so the joint lengths
    differ by one token at most, too."""
    return split_evenly(total, ranks)[::-1]
