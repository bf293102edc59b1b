"""The control word: how a launcher or a rank asks for a pause or for cancellation. Needs no torch."""

from enum import IntEnum


class Control(IntEnum):
    """What a rank asks for; the largest value of any rank counts for all."""

    RUN = 0
    PAUSE = 1  # stop, and leave a checkpoint
    CANCEL = 2  # stop, and remove what was left
