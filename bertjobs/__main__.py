"""``python -m bertjobs``, and the command ``bertjobs``."""

from __future__ import annotations

import gc
import signal
import sys


def run() -> int:
    """Run the command line; returns its exit code."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while nothing is there that would have to be undone
    from bertjobs.cli import interrupts

    code = interrupts.run(_command)
    gc.freeze()  # Python's end would search all that is loaded for cycles, three times: 0.02 s to 0.05 s
    return code


def _command() -> int:
    from bertjobs.cli.interrupts import interrupts_held

    with interrupts_held():
        from bertjobs.cli.main import main
    return main()


if __name__ == "__main__":
    sys.exit(run())
