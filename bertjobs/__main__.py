"""``python -m bertjobs``, and the command ``bertjobs``."""

from __future__ import annotations

import sys

from bertjobs.cli import interrupts


def _command() -> int:
    with interrupts.interrupts_held():
        from bertjobs.cli.main import main
    return main()


def run() -> int:
    """Run the command line; returns its exit code."""
    return interrupts.run(_command)


if __name__ == "__main__":
    sys.exit(run())
