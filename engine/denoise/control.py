"""What the control word of the ranks' agreement does to a request."""

from engine.errors import Cancelled, Paused
from parallel.control import Control


def stop_if_asked(agreed: Control, where: str) -> None:
    """End the request, unless it is to run on.

    Args:
        agreed: by all ranks of the replica, so that all of them stop here.
        where: as it is read in an error, "denoise step 3".

    Raises:
        Paused, Cancelled: as agreed.
    """
    if agreed is Control.CANCEL:
        raise Cancelled(f"Cancelled at {where}.")
    if agreed is Control.PAUSE:
        raise Paused(f"Paused at {where}.")
