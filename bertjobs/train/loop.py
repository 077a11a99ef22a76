"""The loop over optimizer steps of a phase, on one rank: what is done between the steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bertjobs.data.batches.batches import BatchStream, MicroBatch
from bertjobs.data.batches.lddl_loader import LddlStream
from bertjobs.data.check.shard_watch import ShardWatch
from bertjobs.errors import InputError
from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.base import Optimizer
from bertjobs.optim.schedule import learning_rate
from bertjobs.recipe.flops import StepCounts, step_flops
from bertjobs.train.checkpoint.saving import Saving
from bertjobs.train.checkpoint.state import Progress
from bertjobs.train.device import device_peak_flops, peak_memory_gb
from bertjobs.train.diagnosis import diagnose
from bertjobs.train.job import Job
from bertjobs.train.metrics import MetricsLog, counts_of, step_metrics
from bertjobs.train.ranks import Ranks
from bertjobs.train.signals import STOP_SIGNALS, StopRequest
from bertjobs.train.step import StepPlan, StepResult, train_step
from bertjobs.train.validation import Validation
from bertjobs.train.watchdog import Watchdog

SKIPS_ALLOWED = 25


@dataclass(frozen=True)
class Outcome:
    """How a phase's attempt ended: ``cause`` is "done", a signal's name, "STEPS_THIS_RUN" or "bad shard";
    ``lead_s`` is how long a stop takes, in seconds, as measured."""

    done: bool
    cause: str
    step: int
    lead_s: float | None = None


@dataclass
class Trainer:
    """One rank's part in a phase; ``model`` is what ``wrapped`` wraps for the ranks."""

    job: Job
    ranks: Ranks
    device: torch.device
    stop: StopRequest
    model: BertForPreTraining
    wrapped: torch.nn.Module
    optimizer: Optimizer
    progress: Progress
    stream: BatchStream | LddlStream
    validation: Validation
    metrics: MetricsLog
    saving: Saving
    watchdog: Watchdog
    shard_watch: ShardWatch

    def __post_init__(self) -> None:
        self._first_step = self.progress.step
        self._skipped_in_a_row = 0
        peak = device_peak_flops(self.device, self.job.spec.precision)
        self._peak_flops = None if peak is None else peak * self.ranks.size

    def run(self) -> Outcome:
        """Step until the phase is done or all ranks agree to stop; a checkpoint is written either way.

        Raises:
            InputError: a shard was removed or altered meanwhile; after a checkpoint.
            BertjobsError: the training failed.
        """
        phase = self.job.phase
        batches: Iterator[Sequence[MicroBatch]] = iter(self.stream)
        while self.progress.updates < phase.steps:
            cause = self._step(batches)
            if cause:
                self.ranks.say(f"stopping after step {self.progress.step}: {cause}")
                self._checkpoint_now()
                return self._outcome(cause)
            at = self.progress.step
            last = self.progress.updates == phase.steps
            if last or (phase.validate_every and at % phase.validate_every == 0):
                self._validate()
            if at % phase.checkpoint_every == 0:
                self._begin_checkpoint()
        self._checkpoint_now()
        return self._outcome("done")

    def _outcome(self, cause: str) -> Outcome:
        return Outcome(cause == "done", cause, self.progress.step, round(self.saving.lead.seconds, 1))

    def _step(self, batches: Iterator[Sequence[MicroBatch]]) -> str | None:
        """One optimizer step; or the cause to stop, if one of the ranks has one."""
        spec, phase, progress = self.job.spec, self.job.phase, self.progress
        started = time.perf_counter()
        self.watchdog.beat(progress.step + 1, "reading")
        limit = spec.steps_this_run and progress.step - self._first_step >= spec.steps_this_run
        micro_batches, error = ([], None) if limit else self._next(batches)
        waited = time.perf_counter() - started
        counts, cause = self._agree(micro_batches, error)
        if cause or limit:
            return cause or "STEPS_THIS_RUN"

        self.watchdog.beat(progress.step + 1, "training")
        rate = learning_rate(progress.updates, base=phase.lr, warmup=phase.warmup, total=phase.steps)
        self.optimizer.set_learning_rate(rate)
        plan = StepPlan(
            number=progress.step,
            masked_tokens=counts.masked_tokens,
            sequences=counts.sequences,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            precision=spec.precision,
            loss_scale=progress.loss_scale.scale,
            seed=spec.seed + phase.phase,
            normalization=spec.loss_normalization,
        )
        result = train_step(self.wrapped, self.optimizer, micro_batches, plan, self.device)
        sums = self.ranks.sum_on_device(result.sums).tolist()
        self.progress = progress.after(result.skipped)
        took = time.perf_counter() - started
        saved = self.saving.take_times()
        line = step_metrics(
            phase=phase.phase,
            step=self.progress.step,
            attempt=self.job.placement.attempt,
            time_unix_s=round(time.time(), 3),
            learning_rate=rate,
            gradient_norm=result.gradient_norm,
            loss_scale=plan.loss_scale,
            skipped_steps=self.progress.skipped,
            data_wait_s=round(waited, 4),
            checkpoint_s=saved.wall_s,
            checkpoint_stall_s=saved.stall_s,
            peak_memory_gb=round(peak_memory_gb(self.device), 3),
            sums=sums,
            counts=counts,
            flops=step_flops(spec.model, spec.model.vocab_size, counts),
            peak_flops=self._peak_flops,
            step_time_s=took,
        )
        self.metrics.step(line, phase.steps)
        self.saving.lead.after_step(took)
        self._check_finite(result, plan, line)
        return None

    def _next(self, batches: Iterator[Sequence[MicroBatch]]) -> tuple[Sequence[MicroBatch], InputError | None]:
        """The next step's batches; or what is wrong with the data."""
        if self.shard_watch.error is not None:
            return [], self.shard_watch.error
        try:
            return next(batches), None
        except InputError as error:
            return [], error

    def _agree(self, micro_batches: Sequence[MicroBatch], error: InputError | None) -> tuple[StepCounts, str | None]:
        """What all ranks know at a step's beginning: the counts of the global batch, or why to stop.

        Raises:
            InputError: a rank has an ``error``; a checkpoint was written.
        """
        asked = [int(self.stop.signal == number) for number in STOP_SIGNALS]
        told = self.ranks.sum_on_host(*asked, int(error is not None), *self.saving.flags, *counts_of(micro_batches))
        asked, (wrong, writing, unwritten), counts = told[:-7], told[-7:-4], StepCounts(*told[-4:])
        self.saving.settle(writing, unwritten)
        if wrong:
            if self.job.spec.on_bad_shard == "skip":  # the next attempt finds it at its start, and does
                return counts, "bad shard"
            self._checkpoint_now()
            self.ranks.raise_first(error)
        causes = [number.name for number, count in zip(STOP_SIGNALS, asked, strict=True) if count]
        return counts, causes[0] if causes else None

    def _check_finite(self, result: StepResult, plan: StepPlan, line: dict[str, Any]) -> None:
        """End a run whose gradients are never finite: waiting longer does not mend it.

        Raises:
            BertjobsError: the diagnosis.
        """
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if result.skipped else 0
        if self._skipped_in_a_row == SKIPS_ALLOWED:
            self.ranks.decided(lambda: self._give_up(plan, line))

    def _give_up(self, plan: StepPlan, line: dict[str, Any]) -> None:
        diagnosis = diagnose(
            self.model,
            phase=self.job.phase.phase,
            step=line["step"],
            skipped_in_a_row=self._skipped_in_a_row,
            precision=plan.precision,
            loss_scale=plan.loss_scale,
            mlm_loss_nats=line["mlm_loss_nats"],
            nsp_loss_nats=line["nsp_loss_nats"],
            sequences=self.stream.samples(plan.number),
        )
        raise diagnosis.error(diagnosis.write(self.job.directory.phase(self.job.phase.phase).root))

    def _validate(self) -> None:
        step = self.progress.step
        self.metrics.validation({"phase": self.job.phase.phase, "step": step, **self.validation.run(self.model, step)})

    def _begin_checkpoint(self) -> None:
        self.watchdog.beat(self.progress.step, "beginning a checkpoint")
        self.saving.begin(self.model, self.optimizer, self.progress, self.stream.state(self.progress.step))

    def _checkpoint_now(self) -> None:
        """A checkpoint of this step, written when this returns.

        Raises:
            BertjobsError: it cannot be written.
        """
        self.watchdog.beat(self.progress.step, "writing a checkpoint")
        self.saving.save_now(self.model, self.optimizer, self.progress, self.stream.state(self.progress.step))
