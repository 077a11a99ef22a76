"""Stopping on request: USR2 (Slurm, a lead time before the limit) and TERM (preemption, scancel)."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Remembers that a signal asked this rank to stop.

    A rank never stops by itself: ranks agree at the next step boundary, so all leave after the same step.
    INT is ignored: on a terminal it reaches the launcher too, which then sends TERM.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def listen(self) -> None:
        """Install the handlers; call it in the main thread."""
        signal.signal(signal.SIGUSR2, self._request)
        signal.signal(signal.SIGTERM, self._request)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name

    @property
    def requested(self) -> bool:
        return self.signal_name is not None
