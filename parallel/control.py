"""The control word: how a launcher or a rank asks for a pause or for cancellation. Needs no torch."""

from enum import IntEnum


class Control(IntEnum):
    """A rank's wish; the largest wish of any rank holds for all."""

    RUN = 0
    PAUSE = 1  # stop, and leave a checkpoint
    CANCEL = 2  # stop, and remove what was left
