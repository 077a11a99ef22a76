"""How far a command is that works for a while, on stderr."""

from __future__ import annotations

import math
import sys
import time

_REWRITE = "\r\033[K"  # on a terminal: back to the line's start, and empty it


class ProgressLine:
    """A line on stderr with the stage, its progress, its rate and the time left.

    On a terminal it rewrites itself; in a log it appears twice a minute and when a stage ends.

    Args:
        patience_s: nothing is said of a stage before it has taken so long.
    """

    def __init__(self, patience_s: float = 0.0) -> None:
        self._patience = patience_s
        self._stage = ""
        self._began = self._shown = 0.0
        self._before = 0.0  # done by an earlier command

    def __call__(self, stage: str, done: float, total: float, unit: str) -> None:
        """Show how much is done; a ``total`` that is not known yet is infinite."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._shown, self._before = stage, now, now, done
        terminal = sys.stderr.isatty()
        finished = done >= total
        if now - self._began < self._patience or not (terminal or finished or now - self._shown > 30):
            return
        self._shown = now
        start, end = (_REWRITE, "\n" if finished else "") if terminal else ("", "\n")
        print(f"{start}{self._line(now, done, total, unit)}", end=end, file=sys.stderr, flush=True)

    def _line(self, now: float, done: float, total: float, unit: str) -> str:
        of_total = f" of {_number(total)}" if math.isfinite(total) else ""
        line = f"{self._stage}: {_number(done)}{of_total} {unit}"
        rate = (done - self._before) / max(now - self._began, 1e-6)
        if rate:
            line += f", {_number(rate)} {unit}/s"
        if rate and done < total and of_total:
            line += f", {_duration((total - done) / rate)} left"
        return line

    def say(self, text: str) -> None:
        """Print another line in place of the one that is being rewritten."""
        print(f"{_REWRITE if sys.stderr.isatty() else ''}{text}", file=sys.stderr, flush=True)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
