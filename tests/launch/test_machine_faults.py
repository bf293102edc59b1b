"""Which errors are the machine's fault, so that its job may succeed on another one."""

import errno

import pytest
import torch

from engine.errors import DiskFailure, InvalidInput, MachineUnfit, NoRoom, RankFailure
from launch.process.failures import describe
from launch.process.machine_faults import is_machines_fault

OF_OTHERS = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.00 GiB is free."
    " Process 4242 has {} memory in use. Including non-PyTorch memory, this process has 40.00 GiB memory in use."
)


def wrapped(cause: Exception) -> RankFailure:
    error = RankFailure("The disk has been full for an hour.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "x") for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)),
        FileNotFoundError(errno.ENOENT, "x", "/models/wan/vae/model.safetensors"),
        PermissionError(errno.EACCES, "x"),
        wrapped(OSError(errno.ENOSPC, "x")),
        DiskFailure("/videos has not taken a file for 3600 s."),
        NoRoom("There is no room in /videos."),
        MemoryError(),
        ModuleNotFoundError("No module named 'flash_attn'"),
        ImportError("libcudnn.so.9: cannot open shared object file: No such file or directory"),
        MachineUnfit("There is no model folder /models/wan."),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA driver initialization failed, you might not have a CUDA gpu."),
        RuntimeError("No CUDA GPUs are available"),
        RuntimeError("Found no NVIDIA driver on your system."),
        RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED"),
        RuntimeError("Can't initialize NVML"),
        RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:1, unhandled cuda error, NCCL version 2.27"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("unable to mmap 100 bytes from file </dev/shm/torch>: Cannot allocate memory (12)"),
        torch.OutOfMemoryError(OF_OTHERS.format("38.00 GiB")),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:50],
)
def test_the_machine_is_to_blame(error: Exception) -> None:
    assert is_machines_fault(error)
    failure = describe(error, 0, "denoise step 3")
    assert failure.machines and not failure.consequence


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("sampling.frames is 6, but this model needs 4n+1."),
        ValueError("a prompt"),
        RankFailure("Activations are not finite."),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("CUDA error: invalid configuration argument"),
        RuntimeError("CUDA error: too many resources requested for launch"),
        torch.OutOfMemoryError(OF_OTHERS.format("500.00 MiB")),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB."),
        RuntimeError("CUDA error: out of memory"),
        OSError(errno.ENAMETOOLONG, "x"),
        KeyError("x"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:50],
)
def test_the_job_is_to_blame(error: Exception) -> None:
    """Or it is not known; then too."""
    assert not is_machines_fault(error)
    assert not describe(error, 0, "denoise step 3").machines


def test_what_is_refused_is_the_machines_only_where_its_disk_is() -> None:
    """A folder that the job names and that cannot be written is the job's; a broken disk under it is the machine's."""
    for number, machines in ((errno.EROFS, True), (errno.ENOSPC, True), (errno.EACCES, False), (errno.ENOENT, False)):
        error = InvalidInput("--output is 'x.mp4', but its folder is not writable.")
        error.__cause__ = OSError(number, "x")
        assert is_machines_fault(error) is machines
