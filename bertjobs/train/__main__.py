"""``python -m bertjobs.train``: one rank of the worker."""

import os
import sys

from bertjobs.train.signals import StopRequest

if __name__ == "__main__":
    # Before torch is imported, which takes seconds: a signal in that time must not kill the rank.
    stop = StopRequest()
    stop.listen()

    from bertjobs.train.worker import main

    code = main(os.environ, stop)
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: taking a process group down after a failure can wait for ranks that never come.
    os._exit(code)
