"""The control word: what a rank asks of all, and what a launcher asks of a rank. Needs no torch."""

from enum import IntEnum


class Control(IntEnum):
    """What a rank asks of all; the largest wins."""

    RUN = 0
    PAUSE = 1  # stop, to go on later
    CANCEL = 2  # stop, and leave nothing
