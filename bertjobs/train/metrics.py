"""metrics.jsonl and validation.jsonl: one consistent series each, over all restarts.

A line of metrics.jsonl is one optimizer step. Fields and units; rates and losses are those of all ranks together:

- ``phase``, ``step`` (counts from 1), ``attempt``, ``time_unix_s``;
- the objective's losses and scores (`Objective.measures`);
- ``learning_rate``, ``gradient_norm`` (before clipping), ``loss_scale``, ``skipped_steps`` (so far);
- ``step_time_s``, ``data_wait_s`` (the part of it in which rank 0 waited for batches, and its device with it: the
  next step's are read while the device computes), ``tokens`` (of the step, without padding), ``sequences_per_s``,
  ``tokens_per_s``, ``model_flops_per_s`` (`bertjobs.recipe.flops`, without padding), ``peak_share`` (its share of the
  peak rate of all devices, 0 to 1; null where the peak is not known);
- ``checkpoint_s`` (from snapshot to commit, of checkpoints committed since the previous line; null for none) and
  ``checkpoint_stall_s`` (for which checkpoints held up the step loop since the previous line);
- ``peak_memory_gb`` (rank 0, so far; GB of 10^9 bytes; tensors on a GPU, else the process's RAM).

A line of validation.jsonl is one validation: ``phase``, ``step``, ``validation_s`` (how long it took), and the
objective's held-out losses and scores.

Lines of earlier versions lack ``tokens``, ``model_flops_per_s``, ``peak_share``, ``checkpoint_s``,
``checkpoint_stall_s``, ``peak_memory_gb`` and ``validation_s``. A number that is not finite is written as NaN or
Infinity, as Python's json writes and reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from bertjobs.files.atomic import sync_file, sync_folder, write_text
from bertjobs.files.json_lines import append_line, read_lines
from bertjobs.run.series import continued
from bertjobs.train.objective import GlobalBatch
from bertjobs.train.tensorboard import HeldOutFields, TensorBoardLog


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
        measures: the objective's losses and scores.
        peak_flops: the peak rate of all ranks' devices, per second; None if it is not known.
        step_time_s: of the whole step, in seconds.
        fields: the other fields, written as they are.
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
    """A step as the worker's log shows it; ``losses`` is the objective's part of the line."""
    share = "" if line["peak_share"] is None else f", {line['peak_share']:.1%} of the peak FLOP/s"
    return (
        f"phase {line['phase']} step {line['step']}/{steps}  {losses}  lr {line['learning_rate']:.3e}  "
        f"|g| {line['gradient_norm']:.3f}  {line['sequences_per_s']:.1f} sequences/s{share}"
    )


def gaps(lines: Sequence[dict[str, Any]], last_step: int) -> list[tuple[int, int]]:
    """The steps from 1 to ``last_step`` without a line, as first and last of each gap; ``lines`` are in order."""
    edges = [0, *(line["step"] for line in lines), last_step + 1]
    return [(before + 1, after - 1) for before, after in pairwise(edges) if after - before > 1]


class _Series:
    """A file of JSON lines; those that cannot be written at the moment are kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: list[dict[str, Any]] = []

    def add(self, line: dict[str, Any]) -> None:
        """Append a line, now or once the file can be written again."""
        self._kept.append(line)
        try:
            self.write_kept()
        except OSError as error:
            if len(self._kept) == 1:
                print(f"warning: {self.path} cannot be written ({error.strerror}): its lines are kept", flush=True)

    def write_kept(self) -> None:
        """Append the lines that are kept.

        Raises:
            OSError: one could not be written; it and those after it are still kept.
        """
        while self._kept:
            append_line(self.path, self._kept[0])
            del self._kept[0]


class MetricsLog:
    """Continues metrics.jsonl, validation.jsonl and the TensorBoard folder; on all ranks but the first it does
    nothing. ``tensorboard`` None writes no TensorBoard files; ``scores`` and ``held_out`` are the objective's fields in
    them, as in `TensorBoardLog`.

    Training does not stop if a line cannot be written, since the file system may come back: no checkpoint is committed
    before its lines are (`sync`).
    """

    def __init__(
        self,
        metrics: Path,
        validation: Path,
        tensorboard: Path | None,
        scores: Sequence[str],
        held_out: HeldOutFields | None = None,
        *,
        active: bool,
    ):
        self._metrics, self._validation, self._active = _Series(metrics), _Series(validation), active
        self._tensorboard = (
            TensorBoardLog(tensorboard, scores, held_out) if active and tensorboard is not None else None
        )

    def resume_after(self, step: int) -> None:
        """Continue the series after ``step``, or begin it after step 0.

        What a crash left behind is repaired: truncated lines, and lines of steps that will be repeated, are removed;
        steps whose lines are lost are named.
        """
        if not self._active:
            return
        steps, validations = (_cut(series.path, step) for series in (self._metrics, self._validation))
        if lost := gaps(steps, step):
            words = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in lost)
            print(
                f"warning: {self._metrics.path} lacks the lines of steps {words}: they were lost in a crash", flush=True
            )
        if self._tensorboard:
            self._tensorboard.begin(step, steps, validations)

    def step(self, line: dict[str, Any], steps: int, losses: str) -> None:
        """Write one step's line; ``steps`` is the phase's number of steps, ``losses`` this step's losses in words."""
        if self._active:
            self._metrics.add(line)
            print(log_line(line, steps, losses), flush=True)
            if self._tensorboard:
                self._tensorboard.step(line)

    def validation(self, line: dict[str, Any], words: str) -> None:
        """Write one validation's line; ``words`` is the same for the log."""
        if self._active:
            self._validation.add(line)
            print(f"phase {line['phase']} step {line['step']}: {words}", flush=True)
            if self._tensorboard:
                self._tensorboard.held_out(line)

    def sync(self) -> None:
        """Flush the lines to the disk. Call it before a checkpoint is committed: a crash of the node can lose lines
        that are still in its cache, and the series would lack steps that the checkpoint contains.

        Raises:
            OSError: a file cannot be written.
        """
        if self._active:
            for series in (self._metrics, self._validation):
                series.write_kept()
                if series.path.exists():
                    sync_file(series.path)
            sync_folder(self._metrics.path.parent)
            if self._tensorboard:
                self._tensorboard.sync()

    def close(self) -> None:
        """Wait until TensorBoard's files are written; lines of the series that are still kept have one more chance."""
        for series in (self._metrics, self._validation):
            with suppress(OSError):
                series.write_kept()
        if self._tensorboard:
            self._tensorboard.close()


def _cut(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Cut a file down to the lines that `continued` keeps; returns them."""
    kept = continued(read_lines(path), last_step)
    text = "".join(json.dumps(line) + "\n" for line in kept)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return kept
