"""metrics.jsonl: one consistent series, one line per optimizer step, over all restarts.

Fields and units: ``phase``, ``step`` (counts from 1), ``attempt``, ``time_unix_s``, ``loss_nats`` (MLM + NSP),
``mlm_loss_nats`` (mean over masked tokens), ``nsp_loss_nats``, ``mlm_accuracy`` and ``nsp_accuracy`` (0 to 1),
``learning_rate``, ``gradient_norm``, ``loss_scale``, ``skipped_steps`` (so far), ``sequences_per_s``,
``tokens_per_s`` (without padding), ``step_time_s``, ``data_wait_s`` (rank 0).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bertjobs.run.atomic import append_line, read_lines, write_text


def cut_series(path: Path, last_step: int) -> None:
    """Drop the lines after ``last_step``: steps that a crash undid, which will be done again."""
    lines = read_lines(path)
    kept = [line for line in lines if line["step"] <= last_step]
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def step_metrics(
    *, sums: list[float], masked_tokens: int, sequences: int, tokens: int, step_time_s: float, **fields: Any
) -> dict[str, Any]:
    """The line of one step from its global sums: MLM loss, MLM hits, NSP loss, NSP hits."""
    mlm, nsp = sums[0] / masked_tokens, sums[2] / sequences
    return {
        **fields,
        "loss_nats": mlm + nsp,
        "mlm_loss_nats": mlm,
        "nsp_loss_nats": nsp,
        "mlm_accuracy": sums[1] / masked_tokens,
        "nsp_accuracy": sums[3] / sequences,
        "sequences_per_s": round(sequences / step_time_s, 3),
        "tokens_per_s": round(tokens / step_time_s, 1),
        "step_time_s": round(step_time_s, 4),
    }


def log_line(line: dict[str, Any], steps: int) -> str:
    """A step as the worker's log shows it."""
    return (
        f"phase {line['phase']} step {line['step']}/{steps}  loss {line['loss_nats']:.4f}  "
        f"mlm {line['mlm_loss_nats']:.4f}  accuracy {line['mlm_accuracy']:.1%}  lr {line['learning_rate']:.3e}  "
        f"|g| {line['gradient_norm']:.3f}  {line['sequences_per_s']:.1f} sequences/s"
    )


class MetricsLog:
    """Appends to metrics.jsonl and validation.jsonl; on all ranks but the first it does nothing."""

    def __init__(self, metrics: Path, validation: Path, *, active: bool):
        self._metrics, self._validation, self._active = metrics, validation, active

    def resume_after(self, step: int) -> None:
        """Continue the series after ``step``."""
        if self._active:
            cut_series(self._metrics, step)
            cut_series(self._validation, step)

    def step(self, line: dict[str, Any], steps: int) -> None:
        if self._active:
            append_line(self._metrics, line)
            print(log_line(line, steps), flush=True)

    def validation(self, line: dict[str, Any]) -> None:
        if self._active:
            append_line(self._validation, line)
            print(
                f"phase {line['phase']} step {line['step']}: held-out mlm {line['mlm_loss_nats']:.4f} nats "
                f"(unigram line {line['unigram_cross_entropy_nats']:.4f}), accuracy {line['mlm_accuracy']:.1%}, "
                f"nsp accuracy {line['nsp_accuracy']:.1%}",
                flush=True,
            )
