"""Stopping on request: USR2 (Slurm, a lead time before the limit), TERM (preemption, scancel), HUP (the terminal was
closed)."""

from __future__ import annotations

import ctypes
import signal
import sys
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)


class StopRequest:
    """Remembers that a signal asked this rank to stop.

    A rank never stops alone: the ranks agree at the next step boundary, so all stop after the same step.
    INT is ignored: in a terminal it reaches the launcher too, which then sends TERM.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def listen(self) -> None:
        """Install the handlers; call it in the main thread."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._request)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)


def stop_with_parent() -> None:
    """Ask the kernel to send TERM when the parent process dies, even by SIGKILL: without its launcher a local rank
    would keep training unnoticed. Linux only (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
