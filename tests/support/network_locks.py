"""Locks as a network file system has them."""

import errno
import fcntl
import os

_flock = fcntl.flock


def network_flock(descriptor: int, operation: int) -> None:
    """As Linux has ``flock`` on NFS, which it makes of record locks: an exclusive one needs a file open for writing
    (flock(2))."""
    if operation & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    _flock(descriptor, operation)
