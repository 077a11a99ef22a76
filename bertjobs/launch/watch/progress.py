"""The progress of a running phase, seen from outside: read from metrics.jsonl, shown as one live line."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from bertjobs.files.json_lines import last_lines, numbers, parse_lines
from bertjobs.run.series import lines_of_steps
from bertjobs.wording import duration

BAR = 20
RECENT = 20
PLAIN_EVERY_S = 20.0
FIELDS = ("phase", "step_time_s", "sequences_per_s", "mlm_accuracy", "loss_nats")


def progress_line(recent: Sequence[dict[str, Any]], steps: int, held_out_nats: float | None = None) -> str:
    """One line from the newest metrics: bar, step, loss, held-out masked-LM loss (None before the first validation),
    masked-word accuracy, sequences/s, time left."""
    last = recent[-1]
    share = min(1.0, last["step"] / steps)
    filled = round(share * BAR)
    seconds = statistics.median(line["step_time_s"] for line in recent)
    rate = statistics.median(line["sequences_per_s"] for line in recent)
    accuracy = statistics.mean(line["mlm_accuracy"] for line in recent)
    held_out = "" if held_out_nats is None else f" (held-out masked words {held_out_nats:.3f})"
    left = duration(seconds * max(0, steps - last["step"]))
    return (
        f"phase {last['phase']} [{'#' * filled}{'.' * (BAR - filled)}] step {last['step']}/{steps}  "
        f"loss {last['loss_nats']:.3f}{held_out}  masked words {accuracy:.1%}  {rate:,.1f} sequences/s  {left} left"
    )


@dataclass
class ProgressView:
    """Follows one phase's metrics.jsonl and redraws its line: in place on a terminal, now and then elsewhere.

    ``validation`` is the phase's validation.jsonl, whose newest loss is shown as well."""

    metrics: Path
    steps: int
    out: TextIO
    validation: Path | None = None
    recent: list[dict[str, Any]] = field(default_factory=list)
    _offset: int = 0
    _shown_at: float = 0.0
    _shown_step: int = 0

    def update(self) -> None:
        """Read what is new and show it; cheap enough to call several times a second."""
        if self._read() and (self.out.isatty() or time.monotonic() - self._shown_at > PLAIN_EVERY_S):
            self._show(end="" if self.out.isatty() else "\n")

    def close(self) -> None:
        """Leave the last state on a line of its own."""
        self._read()
        if self.out.isatty() or (self.recent and self._shown_step != self.recent[-1]["step"]):
            self._show(end="\n")

    def _show(self, end: str) -> None:
        if self.recent:
            start = "\r\x1b[K" if self.out.isatty() else ""
            self.out.write(start + progress_line(self.recent, self.steps, self._held_out_nats()) + end)
            self.out.flush()
            self._shown_at, self._shown_step = time.monotonic(), self.recent[-1]["step"]

    def _held_out_nats(self) -> float | None:
        lines = last_lines(self.validation) if self.validation else []
        losses = numbers(lines, "mlm_loss_nats")
        return losses[-1] if losses else None

    def _read(self) -> bool:
        """Read new whole lines; whether there were any."""
        if not self.metrics.exists():
            return False
        with open(self.metrics, "rb") as handle:
            if self.metrics.stat().st_size < self._offset:  # cut by a restart
                self._offset = 0
            handle.seek(self._offset)
            new = handle.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.recent = (self.recent + lines_of_steps(parse_lines(whole), *FIELDS))[-RECENT:]
        return bool(whole)
