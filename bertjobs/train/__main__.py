"""``python -m bertjobs.train``: one rank of the worker."""

import os
import sys

from bertjobs.train.signals import StopRequest

if __name__ == "__main__":
    # Before torch is imported, which takes seconds: a signal in that time must not kill the rank.
    stop = StopRequest()
    stop.listen()

    from bertjobs.train.worker import main

    sys.exit(main(os.environ, stop))
