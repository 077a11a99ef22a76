"""When checkpoints are written, and how the ranks agree on them.

A checkpoint is begun on all ranks after the same step; each then writes its part in the background. At every later
step the ranks sum up how many are still writing and how many failed (the numbers travel with the step's others, not in
a message of their own), and so commit or drop it after the same step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from bertjobs.data.batches.order import StreamState
from bertjobs.errors import BertjobsError
from bertjobs.optim.base import Optimizer
from bertjobs.train.checkpoint.state import Progress
from bertjobs.train.checkpoint.stop_time import Lead
from bertjobs.train.checkpoint.writer import CheckpointWriter
from bertjobs.train.metrics import MetricsLog
from bertjobs.train.ranks import Ranks

FAILURES_ALLOWED = 3  # in a row; a disk that was full may have room again
LEAD_GROWTH = 1.2  # a stop must take this much longer than before to be worth a line


@dataclass(frozen=True)
class SavingTimes:
    """Seconds that checkpoints took: ``wall_s`` from snapshot to commit, None if none was committed; ``stall_s`` in
    which they held up the step loop."""

    wall_s: float | None = None
    stall_s: float = 0.0


class Saving:
    """The checkpoints of one phase, on one rank. All methods are called on all ranks after the same step."""

    def __init__(
        self,
        writer: CheckpointWriter,
        ranks: Ranks,
        metrics: MetricsLog,
        lead: Lead,
        saved_step: int | None,
        note: Callable[[int], None],
    ):
        self._writer, self._ranks, self._metrics, self.lead = writer, ranks, metrics, lead
        self._note = note  # the step of each checkpoint that is committed, on rank 0
        self._saved_step = saved_step  # of the newest checkpoint that is committed or under way
        self._error: Exception | None = None  # why this rank's commit failed
        self._last_error: Exception | None = None
        self._failures = 0
        self._is_committed = False  # as far as this rank knows
        self._began = 0.0
        self._said_lead_s = 0.0
        self._times = SavingTimes()

    def reserve(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Allocate the memory for snapshots before the first step, not at the first snapshot."""
        self._writer.reserve(model, optimizer)

    def keep(self, step: int) -> None:
        """The checkpoint of this step, the best so far, stays however many follow."""
        self._writer.keep(step)
        self.lead.keeps_best = True

    @property
    def flags(self) -> tuple[int, int]:
        """Whether this rank is still writing, and whether it failed: to be summed over ranks and passed to `settle`."""
        return int(self._writer.state == "writing"), int(self._error is not None or self._writer.state == "failed")

    def begin(self, model: nn.Module, optimizer: Optimizer, progress: Progress, data: StreamState) -> None:
        """Take a snapshot, which is written in the background, once the previous checkpoint is finished.

        Raises:
            BertjobsError: as in `settle`.
        """
        if self._saved_step == progress.step:
            return
        began = time.perf_counter()
        self.finish()
        self._began = time.perf_counter()
        self._writer.begin(model, optimizer, progress, data)
        self._saved_step = progress.step
        self._add_stall(self._began - began)

    def save_now(self, model: nn.Module, optimizer: Optimizer, progress: Progress, data: StreamState) -> None:
        """As `begin`, and wait for the end; an older checkpoint that is under way is given up for it, but not the best
        one so far.

        Raises:
            BertjobsError: it cannot be written.
        """
        newest = self._saved_step  # like the best step, the same on all ranks
        if newest is not None and newest not in (progress.step, self._writer.best_step):
            unsettled, failed = self._ranks.sum_on_host(int(self._writer.state != "idle"), self.flags[1])
            if unsettled:
                self._writer.abort()
                self._ranks.sum_on_host(0)  # from here on no rank writes to its folder
            if failed:
                self._drop()
            elif unsettled:
                self._writer.drop(newest)
        self.begin(model, optimizer, progress, data)
        self.finish()
        if self._failures:
            self._give_up()

    def settle(self, writing: int, failed: int) -> None:
        """Commit the checkpoint that is under way, or drop it, once no rank is still writing it.

        Raises:
            BertjobsError: a checkpoint could not be written, for the third time in a row.
        """
        if writing:
            return
        if failed:
            self._drop()
            return
        if self._is_committed:  # on rank 0 as well, or it would have failed
            self._failures, self._is_committed = 0, False
        if self._writer.state == "written":
            self._commit()

    def finish(self) -> None:
        """Wait for the checkpoint that is under way.

        Raises:
            BertjobsError: as in `settle`.
        """
        for _ in range(2):  # the second round is for rank 0 to say that its commit failed
            self._writer.wait()
            self.settle(*self._ranks.sum_on_host(*self.flags))

    def take_times(self) -> SavingTimes:
        """The time that checkpoints took since the last call."""
        times, self._times = self._times, SavingTimes()
        return times

    def _commit(self) -> None:
        try:
            self._metrics.sync()  # before the checkpoint: no step that it contains may lack its line
            folder = self._writer.commit()
        except (OSError, BertjobsError) as error:
            self._error = error
            return
        seconds = time.perf_counter() - self._began
        self._is_committed = True
        self._add_stall(self._writer.stall_s)
        self._times = replace(self._times, wall_s=(self._times.wall_s or 0.0) + seconds)
        self._ranks.say(f"checkpoint {folder}")
        if self._ranks.is_first and self._saved_step is not None:
            self._note(self._saved_step)
        known = self._said_lead_s or self.lead.seconds
        self.lead.after_checkpoint(seconds)
        if self.lead.seconds > LEAD_GROWTH * known:
            self._said_lead_s = self.lead.seconds
            self._ranks.say(self.lead.warning() or f"lead: {self.lead.words()}")

    def _add_stall(self, seconds: float) -> None:
        self._times = replace(self._times, stall_s=self._times.stall_s + seconds)

    def _drop(self) -> None:
        error = self._error or self._writer.error
        self._writer.drop(self._saved_step)
        self._failures += 1
        self._is_committed = False
        self._saved_step = None
        if error is not None:
            print(f"warning: rank {self._ranks.rank}: {error}; the earlier checkpoints are intact", flush=True)
        self._last_error, self._error = error, None
        if self._failures == FAILURES_ALLOWED:
            self._give_up()

    def _give_up(self) -> None:
        self._ranks.raise_first(self._last_error)
