"""``python -m bertjobs.train``: one rank of the worker."""

import faulthandler
import gc
import os
import sys

from bertjobs.train.signals import StopRequest, stop_with_parent

if __name__ == "__main__":
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else torch prints C++ stacks when another rank is gone
    faulthandler.enable()  # shows where the kernel killed this process, as on reading a truncated file (SIGBUS)
    # Before torch is imported, which takes seconds: a signal in that time must not kill the rank.
    stop = StopRequest()
    stop.listen()
    if "BERTJOBS_JOB" in os.environ:  # started by the local launcher
        stop_with_parent()

    gc.disable()  # what imports leave lives as long as the rank: looking through it takes a sixth of their time
    from bertjobs.train.worker import main

    gc.freeze()
    gc.enable()
    code = main(os.environ, stop)
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: taking down a process group after a failure can wait for ranks that never arrive.
    os._exit(code)
