"""The progress of a running phase, seen from outside: read from metrics.jsonl, shown as one live line."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from bertjobs.files.json_lines import last_lines, parse_lines
from bertjobs.run.series import lines_of_steps, loss_field
from bertjobs.wording import duration

BAR = 20
RECENT = 20
PLAIN_EVERY_S = 20.0
FIELDS = ("phase", "step_time_s", "sequences_per_s")
HITS = {
    "mlm_accuracy": "masked words {:.1%}",
    "training_accuracy": "training accuracy {:.1%}",
    "absolute_error": "absolute error {:.3f}",
}
"""The fields of metrics.jsonl that say how good a step's guesses were, each in words."""


@dataclass(frozen=True)
class ShownValidation:
    """What is shown of a phase's validations: a field, and its value in words."""

    field: str = "mlm_loss_nats"
    words: str = "held-out masked words {:.3f}"

    @classmethod
    def of_task(cls, measure: str) -> ShownValidation:
        """The measure of a task on its dev data."""
        return cls(measure, f"dev {measure.replace('_', ' ')} {{:.4f}}")


def progress_line(
    recent: Sequence[dict[str, Any]], steps: int, held_out: str = "", epoch_steps: float | None = None
) -> str:
    """One line from the newest metrics: bar, step, epoch, loss, what was held out, accuracy, sequences/s, time left.

    Args:
        held_out: the newest validation in words; "" before the first.
        epoch_steps: the steps of an epoch; None shows no epochs.
    """
    last = recent[-1]
    share = min(1.0, last["step"] / steps)
    filled = round(share * BAR)
    seconds = statistics.median(line["step_time_s"] for line in recent)
    rate = statistics.median(line["sequences_per_s"] for line in recent)
    field = loss_field(last) or ""
    name = "loss" if field == "loss_nats" else field.replace("_", " ")
    epochs = f", epoch {last['step'] / epoch_steps:.1f} of {steps / epoch_steps:.1f}" if epoch_steps else ""
    parts = [
        f"phase {last['phase']} [{'#' * filled}{'.' * (BAR - filled)}] step {last['step']}/{steps}{epochs}",
        f"{name} {last[field]:.3f}" + (f" ({held_out})" if held_out else ""),
        *_hits(recent),
        f"{rate:,.1f} sequences/s",
        f"{duration(seconds * max(0, steps - last['step']))} left",
    ]
    return "  ".join(parts)


def _hits(recent: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Means over these steps."""
    for name, words in HITS.items():
        if lines := lines_of_steps(recent, name):
            yield words.format(statistics.mean(line[name] for line in lines))


@dataclass
class ProgressView:
    """Follows one phase's metrics.jsonl and redraws its line: in place on a terminal, now and then elsewhere.

    ``validation`` is the phase's validation.jsonl, of which the newest ``held_out`` is shown as well; ``epoch_steps``
    are the steps of an epoch, where epochs are shown."""

    metrics: Path
    steps: int
    out: TextIO
    validation: Path | None = None
    held_out: ShownValidation = ShownValidation()
    epoch_steps: float | None = None
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
            line = progress_line(self.recent, self.steps, self._held_out_words(), self.epoch_steps)
            self.out.write(start + line + end)
            self.out.flush()
            self._shown_at, self._shown_step = time.monotonic(), self.recent[-1]["step"]

    def _held_out_words(self) -> str:
        field = self.held_out.field
        lines = lines_of_steps(last_lines(self.validation), field) if self.validation else []
        return self.held_out.words.format(lines[-1][field]) if lines else ""

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
        self.recent = (self.recent + lines_of_steps(parse_lines(whole), *FIELDS, with_loss=True))[-RECENT:]
        return bool(whole)
