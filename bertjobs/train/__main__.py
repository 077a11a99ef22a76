"""``python -m bertjobs.train``: one rank of the worker."""

import faulthandler
import os
import sys

from bertjobs.train.signals import StopRequest, stop_with_parent

if __name__ == "__main__":
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else torch prints C++ stacks where another rank is gone
    faulthandler.enable()  # says where the kernel ended this process, such as in a file that was cut (SIGBUS)
    # Before torch is imported, which takes seconds: a signal in that time must not kill the rank.
    stop = StopRequest()
    stop.listen()
    if "BERTJOBS_JOB" in os.environ:  # started by the local launcher
        stop_with_parent()

    from bertjobs.train.worker import main

    code = main(os.environ, stop)
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: taking a process group down after a failure can wait for ranks that never come.
    os._exit(code)
