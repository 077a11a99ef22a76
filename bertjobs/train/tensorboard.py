"""TensorBoard's event files, by torch's SummaryWriter, where the extra ``bertjobs[tensorboard]`` is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjobs.errors import install_hint
from bertjobs.files.atomic import PRIVATE_FOLDER, sync_file, sync_folder
from bertjobs.run.series import HELD_OUT, TRAIN

EVENT_FILES = "events.out.tfevents.*"
"""TensorBoard reads them in the order of their names, which begin with the time of their creation."""
QUEUED_EVENTS = 1 << 16
"""Steps, a kilobyte each, that may queue up for a slow disk before training itself waits."""

OF_EVERY_STEP = (
    "learning_rate", "gradient_norm", "loss_scale", "skipped_steps", "step_time_s", "data_wait_s", "sequences_per_s",
    "tokens_per_s", "model_flops_per_s", "peak_share", "checkpoint_s", "checkpoint_stall_s", "peak_memory_gb",
)  # fmt: skip
"""Fields of metrics.jsonl that are shown whatever is trained."""


HeldOutFields = Callable[[Mapping[str, Any]], Sequence[str]]
"""Which fields of a line of validation.jsonl are shown (`Objective.held_out_scores`)."""


class TensorBoardLog:
    """The scalars of a phase: one event file per attempt, which together show each step once.

    The writer's own thread writes the events. They never make a run fail: when they cannot be written, a warning says
    so once and no more are written.
    """

    def __init__(self, folder: Path, scores: Sequence[str], held_out: HeldOutFields | None = None) -> None:
        """``scores``: the fields of metrics.jsonl that are shown of what is trained (`Objective.scores`); ``held_out``:
        those of validation.jsonl, None for the same."""
        self._folder, self._of_steps = folder, (*scores, *OF_EVERY_STEP)
        self._of_held_out = held_out or (lambda _: scores)
        self._writer: Any = None  # none before `begin`, without TensorBoard, and after a failure
        self._time_unix_s = 0.0

    def begin(self, after: int, steps: Sequence[Mapping[str, Any]], validations: Sequence[Mapping[str, Any]]) -> None:
        """Begin a file that cancels the earlier files' steps after ``after``, which will be repeated.

        If there is no earlier file, it begins with ``steps`` and ``validations``, the lines of metrics.jsonl and
        validation.jsonl so far.
        """
        self._guarded(lambda: self._open(after, steps, validations))

    def step(self, line: Mapping[str, Any]) -> None:
        """Add a line of metrics.jsonl."""
        self._guarded(lambda: self._add(TRAIN, line))

    def held_out(self, line: Mapping[str, Any]) -> None:
        """Add a line of validation.jsonl, at the time of the step that it scores."""
        self._guarded(lambda: self._add(HELD_OUT, line))

    def sync(self) -> None:
        """Flush what was added to the disk."""
        self._guarded(self._sync)

    def close(self) -> None:
        """Wait until all is written, and end."""
        self._guarded(self._close)

    def _open(self, after: int, steps: Sequence[Mapping[str, Any]], validations: Sequence[Mapping[str, Any]]) -> None:
        try:  # here, so that only the rank that writes waits for it
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            print(f"not writing TensorBoard files: {error}; to get them: {install_hint('tensorboard')}", flush=True)
            return
        self._folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        lines = [(TRAIN, line) for line in steps] + [(HELD_OUT, line) for line in validations]
        if any(self._folder.glob(EVENT_FILES)):
            lines = []
        self._writer = SummaryWriter(str(self._folder), purge_step=after + 1, max_queue=QUEUED_EVENTS)
        for group, line in sorted(lines, key=lambda entry: entry[1]["step"]):
            self._add(group, line)

    def _add(self, group: str, line: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._time_unix_s = line.get("time_unix_s", self._time_unix_s)
        values = [
            Summary.Value(tag=f"{group}/{field}", simple_value=line[field])
            for field in (self._of_steps if group == TRAIN else self._of_held_out(line))
            if line.get(field) is not None
        ]
        # One event for all scalars of a step: the writer opens its file once per event.
        self._writer.file_writer.add_summary(Summary(value=values), line["step"], self._time_unix_s)

    def _sync(self) -> None:
        if self._writer is not None:
            self._writer.flush()
            sync_file(max(self._folder.glob(EVENT_FILES)))
            sync_folder(self._folder)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do it; any failure stops the writing, not the run. The writer raises what went wrong in its thread: errors
        of the file system, TensorBoard, protobuf or TensorFlow."""
        try:
            action()
        except Exception as error:
            self._writer = None
            print(f"warning: no more TensorBoard files in {self._folder}: {type(error).__name__}: {error}", flush=True)
