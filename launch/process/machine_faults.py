"""Whether an error is the fault of the machine, or of what it was asked to do.

A job that fails by a fault of the machine may succeed on another one. What is in doubt counts as the job's, or one job
that can work nowhere would put one machine after the other out of service.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from engine.errors import DiskFailure, InvalidInput, MachineUnfit

_DISK_AND_SYSTEM = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EIO", "EROFS", "ENODEV", "ENXIO", "ESTALE", "ENOTCONN", "EREMOTEIO", "EHOSTDOWN"),
        *("EUCLEAN", "EBADMSG", "EBADFD", "ESHUTDOWN", "ENOMEDIUM", "EMEDIUMTYPE", "EHOSTUNREACH", "ENETDOWN"),
        *("EMFILE", "ENFILE", "ENOMEM", "ENOLCK", "EAGAIN", "ENOLINK", "ECOMM", "EPROTO", "ENOKEY", "EKEYEXPIRED"),
    )
    if hasattr(errno, name)
}
# once a job has passed its checks: something has gone since
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM}
# of a driver or a card that is broken, lost, too old, or used up by somebody else
_DEVICE = re.compile(
    r"(CUDA|HIP|ROCm|XPU) (driver )?error|device-side assert|hardware error|ECC error|uncorrectable|no kernel image|"
    r"cudaError|cudaGetDeviceCount|hipError|NVML|nvidia-smi|NVIDIA driver|No CUDA GPUs|No HIP GPUs|fallen off the bus|"
    r"CUDA-capable device|CUDA initialization|driver initialization failed|CUDA_ERROR_|"
    r"driver version is insufficient|forward compatibility|"
    r"CUBLAS_STATUS_(?!INVALID_VALUE|NOT_SUPPORTED|ALLOC_FAILED)|CUSOLVER_STATUS|CUFFT_INTERNAL|"
    r"CUDNN_STATUS_(?!BAD_PARAM|NOT_SUPPORTED|ALLOC_FAILED)|unhandled (cuda|system) error|ncclSystemError|"
    r"ncclUnhandledCudaError|ncclInternalError",
    re.IGNORECASE,
)
# of the same libraries, but of sizes and values that they were given
_OF_THE_JOB = re.compile(
    r"invalid (configuration )?argument|too many resources requested|operation not supported|invalid value|misaligned",
    re.IGNORECASE,
)
_INSTALLATION = re.compile(
    r"cannot open shared object|undefined symbol|GLIBC|Failed to find C compiler|ptxas|nvcc|not compiled with CUDA|"
    r"cannot allocate memory|DefaultCPUAllocator|can't allocate memory|unable to mmap|Bus error|No space left on|"
    r"Input/output error|Read-only file system|Too many open files|Stale file handle|can't start new thread|"
    r"disk I/O error|out of memory when pinning",
    re.IGNORECASE,
)
_OTHERS_MEMORY = re.compile(r"Process \d+ has ([0-9.]+) ([KMGT]i?B) memory in use")
_OUT_OF_MEMORY = re.compile(r"out of memory|OUT_OF_MEMORY|ALLOC_FAILED", re.IGNORECASE)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_MUCH_BYTES = 2**30


def is_machines_fault(error: BaseException) -> bool:
    """Whether another machine might do what failed here.

    A card that is out of memory counts as the machine's fault only if other processes hold more than 1 GiB of it: a job
    that does not fit on an empty card fits on none of its kind.
    """
    is_checked = not isinstance(error, InvalidInput)
    return any(_is_machines(each, is_checked) for each in _causes(error))


def _is_machines(error: BaseException, is_checked: bool) -> bool:
    """
    Args:
        is_checked: what was asked for has passed all checks.
    """
    if isinstance(error, MachineUnfit | DiskFailure | ImportError):
        return True
    if isinstance(error, InvalidInput):
        return False
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    if isinstance(error, OSError) and (error.errno in _DISK_AND_SYSTEM or (is_checked and error.errno in _GONE)):
        return True
    if type(error).__name__ == "OutOfMemoryError" or (_DEVICE.search(text) and _OUT_OF_MEMORY.search(text)):
        return _others_bytes(text) >= _MUCH_BYTES
    if not isinstance(error, RuntimeError | OSError | SystemError):
        return False
    if _INSTALLATION.search(text):
        return True
    return bool(_DEVICE.search(text)) and not _OF_THE_JOB.search(text)


def _others_bytes(text: str) -> float:
    """What other processes hold of a card, as torch's message says."""
    return sum(float(amount) * _UNITS[unit[0]] for amount, unit in _OTHERS_MEMORY.findall(text))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came from."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
