"""What other programs (torch, Python, Slurm, pyxis, Apptainer, the kernel) print when they fail, and the cause that it
points to.

What bertjobs itself prints has its cause in a field of its own, and is never looked up here.
"""

from __future__ import annotations

import re

from bertjobs.run.causes import Cause

APPTAINER = "FATAL: {3}"
BEFORE_PYTHON = rf"{APPTAINER}|(\S*/)?env: "
"""How the last words of those begin that start a rank's Python in a container: Apptainer, and ``env``. Patterns."""

_MESSAGES = tuple(
    (cause, re.compile(pattern, re.MULTILINE))
    for cause, pattern in (
        (Cause.CONTAINER, rf"\b(pyxis|enroot)\b|^({BEFORE_PYTHON})"),
        (Cause.NODE_FAILURE, r"DUE TO NODE FAILURE|Node failure on "),
        (
            Cause.GPU_MEMORY,
            r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|CU(BLAS|DNN)_STATUS_ALLOC_FAILED",
        ),
        (
            Cause.HOST_MEMORY,
            r"oom[-_]kill|: Out Of Memory|DefaultCPUAllocator: (can't allocate|not enough) memory|\bMemoryError\b"
            r"|Cannot allocate memory",
        ),
        (Cause.HANG, r"^Timeout \("),  # faulthandler's
        (Cause.DISK, r"No space left on device|Disk quota exceeded"),
        (Cause.PORT, r"EADDRINUSE|[Aa]ddress already in use"),
        (Cause.LOST_RANK, r"gloo/transport/|DistBackendError|DistNetworkError"),
        (Cause.TIME_LIMIT, r"DUE TO TIME LIMIT"),
        (Cause.PREEMPTED, r"DUE TO PREEMPTION"),
        (
            Cause.LAUNCH,
            r"[Ll]aunch for (StepId=)?\S+ failed on node|Application launch failed|Unable to create step for job"
            r"|execve\(\): ",
        ),
        (Cause.MODULE_MISSING, r"No module named '?\w"),
    )
)


def foreign_cause(text: str) -> Cause | None:
    """The first cause that an error message of another program points to; None if it points to none."""
    return next((cause for cause, message in _MESSAGES if message.search(text)), None)
