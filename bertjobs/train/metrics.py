"""metrics.jsonl and validation.jsonl: one consistent series each, over all restarts.

A line of metrics.jsonl is one optimizer step. Fields and units; rates and losses are those of all ranks together:

- ``phase``, ``step`` (counts from 1), ``attempt``, ``time_unix_s``;
- the losses and scores of what is trained (`Objective.measures`);
- ``learning_rate``, ``gradient_norm`` (before clipping), ``loss_scale``, ``skipped_steps`` (so far);
- ``step_time_s``, ``data_wait_s`` (the part of it in which rank 0 waited for its batches), ``tokens`` (of the step,
  without padding), ``sequences_per_s``, ``tokens_per_s``, ``model_flops_per_s`` (`bertjobs.recipe.flops`, without
  padding), ``peak_share`` (of it in what all devices could do at most, 0 to 1; null where that is not known);
- ``checkpoint_s`` (from snapshot to commit, of checkpoints committed since the line before; null for none) and
  ``checkpoint_stall_s`` (in which the step loop stood still for one since the line before);
- ``peak_memory_gb`` (rank 0, so far; GB of 10^9 bytes; tensors on a GPU, else the process in RAM).

Lines of earlier versions lack ``tokens``, ``model_flops_per_s``, ``peak_share``, ``checkpoint_s``,
``checkpoint_stall_s`` and ``peak_memory_gb``. A number that is not finite stands as NaN or Infinity, as Python's json
writes and reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bertjobs.files.atomic import sync_file, sync_folder, write_text
from bertjobs.files.json_lines import append_line, read_lines
from bertjobs.train.objective import GlobalBatch
from bertjobs.train.tensorboard import TensorBoardLog


def step_metrics(
    *,
    measures: Mapping[str, float],
    batch: GlobalBatch,
    peak_flops: float | None,
    step_time_s: float,
    **fields: Any,
) -> dict[str, Any]:
    """The line of one step.

    Args:
        measures: the losses and scores of what is trained.
        peak_flops: what all ranks' devices could do in a second, None where that is not known.
        step_time_s: of the whole step, in seconds.
        fields: the others, as they shall stand in the line.
    """
    rate = batch.flops / step_time_s
    return {
        **fields,
        **measures,
        "tokens": batch.tokens,
        "sequences_per_s": round(batch.sequences / step_time_s, 3),
        "tokens_per_s": round(batch.tokens / step_time_s, 1),
        "model_flops_per_s": round(rate),
        "peak_share": None if peak_flops is None else round(rate / peak_flops, 4),
        "step_time_s": round(step_time_s, 4),
    }


def log_line(line: dict[str, Any], steps: int, losses: str) -> str:
    """A step as the worker's log shows it; ``losses`` is the objective's part."""
    share = "" if line["peak_share"] is None else f", {line['peak_share']:.1%} of the peak FLOP/s"
    return (
        f"phase {line['phase']} step {line['step']}/{steps}  {losses}  lr {line['learning_rate']:.3e}  "
        f"|g| {line['gradient_norm']:.3f}  {line['sequences_per_s']:.1f} sequences/s{share}"
    )


def continued(lines: Iterable[Any], last_step: int) -> list[dict[str, Any]]:
    """The lines of steps up to ``last_step``, in order, each step once: its newest line.

    Those after it are of steps that a crash undid and that will be done again.
    """
    by_step = {line["step"]: line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)}
    return [by_step[step] for step in sorted(by_step) if 1 <= step <= last_step]


def gaps(lines: Sequence[dict[str, Any]], last_step: int) -> list[tuple[int, int]]:
    """The steps of 1 to ``last_step`` that no line is of, as first and last of each gap; ``lines`` are in order."""
    edges = [0, *(line["step"] for line in lines), last_step + 1]
    return [(before + 1, after - 1) for before, after in pairwise(edges) if after - before > 1]


class MetricsLog:
    """Continues metrics.jsonl, validation.jsonl and the TensorBoard folder; on all ranks but the first it does
    nothing. ``tensorboard`` None writes no TensorBoard files."""

    def __init__(self, metrics: Path, validation: Path, tensorboard: Path | None = None, *, active: bool):
        self._metrics, self._validation, self._active = metrics, validation, active
        self._tensorboard = TensorBoardLog(tensorboard) if active and tensorboard is not None else None

    def resume_after(self, step: int) -> None:
        """Continue the series after ``step``, or begin it after step 0.

        What a crash left behind is mended: a line that was cut, or of a step that will be done again, goes; steps
        whose lines are lost are named.
        """
        if not self._active:
            return
        steps, validations = (_cut(path, step) for path in (self._metrics, self._validation))
        if lost := gaps(steps, step):
            words = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in lost)
            print(f"warning: {self._metrics} lacks the lines of steps {words}: lost in a crash", flush=True)
        if self._tensorboard:
            self._tensorboard.begin(step, steps, validations)

    def step(self, line: dict[str, Any], steps: int, losses: str) -> None:
        """Write one step's line; ``steps`` is the phase's number of them, ``losses`` this one's in words."""
        if self._active:
            append_line(self._metrics, line)
            print(log_line(line, steps, losses), flush=True)
            if self._tensorboard:
                self._tensorboard.step(line)

    def validation(self, line: dict[str, Any], words: str) -> None:
        """Write one validation's line; ``words`` states it."""
        if self._active:
            append_line(self._validation, line)
            print(f"phase {line['phase']} step {line['step']}: {words}", flush=True)
            if self._tensorboard:
                self._tensorboard.held_out(line)

    def sync(self) -> None:
        """Flush the lines to the disk. Before a checkpoint is committed: after a crash the node may have forgotten
        lines that were only written, and the series would lack steps that the checkpoint holds."""
        if self._active:
            written = [path for path in (self._metrics, self._validation) if path.exists()]
            for path in written:
                sync_file(path)
            sync_folder(self._metrics.parent)
            if self._tensorboard:
                self._tensorboard.sync()

    def close(self) -> None:
        """Wait until TensorBoard's files are written; the series are written line by line."""
        if self._tensorboard:
            self._tensorboard.close()


def _cut(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Make a file hold what `continued` keeps of it; returns that."""
    kept = continued(read_lines(path), last_step)
    text = "".join(json.dumps(line) + "\n" for line in kept)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return kept
