"""The loop over the optimizer steps of a phase, on one rank, with all that happens between the steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from bertjobs.errors import InputError
from bertjobs.optim.base import Optimizer
from bertjobs.optim.schedule import learning_rate
from bertjobs.recipe.groups import speeds_of
from bertjobs.run.causes import Cause
from bertjobs.run.journal import SlowRank
from bertjobs.run.owner import BEAT_S
from bertjobs.train.best import Best
from bertjobs.train.checkpoint.saving import Saving
from bertjobs.train.checkpoint.state import Progress
from bertjobs.train.device import device_peak_flops, is_busy, peak_memory_gb
from bertjobs.train.diagnosis import diagnose
from bertjobs.train.job import PhaseJob, check_still_owner, record, still_owns
from bertjobs.train.metrics import MetricsLog, step_metrics
from bertjobs.train.objective import Batches, GlobalBatch, Learner, MicroBatch
from bertjobs.train.pace import GAIN, Pace
from bertjobs.train.ranks import Ranks
from bertjobs.train.signals import STOP_SIGNALS, StopRequest
from bertjobs.train.step import StepPlan, StepResult, train_step
from bertjobs.train.watchdog import Watchdog

SKIPS_ALLOWED = 25


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a phase ended: ``cause`` is one of those with an exit code of 0 or 75;
    ``lead_s`` is the measured time that a stop takes, in seconds; ``best_step`` that of the checkpoint that is the
    phase's result, None for the last one."""

    done: bool
    cause: Cause
    step: int
    lead_s: float | None = None
    best_step: int | None = None


@dataclass
class Trainer:
    """One rank's part in a phase; ``wrapped`` is the learner's forward pass, wrapped for the ranks."""

    job: PhaseJob
    ranks: Ranks
    device: torch.device
    stop: StopRequest
    learner: Learner
    wrapped: torch.nn.Module
    optimizer: Optimizer
    progress: Progress
    batches: Batches
    metrics: MetricsLog
    saving: Saving
    watchdog: Watchdog
    best: Best

    def __post_init__(self) -> None:
        """Compute what is the same in all steps of the phase."""
        spec, phase = self.job.spec, self.job.phase
        self._last_step = self.progress.step + spec.steps_this_run if spec.steps_this_run else None
        self._rate = partial(
            learning_rate,
            base=phase.lr,
            warmup=phase.warmup,
            total=phase.steps,
            decay=spec.decay,
            power=spec.decay_power,
            end=phase.end_lr,
        )
        self._plan = StepPlan(
            world_size=self.ranks.size,
            precision=spec.precision,
            seed=spec.seed + phase.phase,
            normalization=spec.loss_normalization,
        )
        self._peak_flops = self._peak_of_all(device_peak_flops(self.device, spec.precision))
        self._skipped_in_a_row = 0
        self._pace = Pace(self.ranks.rank, self.ranks.size, self.device, self.progress.step)
        self._deals = spec.rebalance  # whether packs may be dealt anew: after the first report, and each checkpoint
        self._read_ahead: tuple[Sequence[MicroBatch], InputError | None] | None = None
        self._waited_s = 0.0
        self._looked_s = time.monotonic()

    def _peak_of_all(self, own: float | None) -> float | None:
        """The peak rate of all ranks' devices, in FLOP/s; None if one is not known."""
        if not self.job.spec.groups:
            return None if own is None else own * self.ranks.size
        total, unknown = self.ranks.sum_on_host(int(own or 0), int(own is None))
        return None if unknown else float(total)

    def run(self) -> Outcome:
        """Step until the phase is done or all ranks agree to stop; a checkpoint is written either way.

        Raises:
            InputError: the data were changed during the training; a checkpoint was written first.
            BertjobsError: the training failed.
        """
        phase = self.job.phase
        if self._deals and (speeds := speeds_of(self.job.spec.groups)):  # what is measured replaces it later
            self._deal(self.progress.step, [1 / speed for speed in speeds], 0.0)
        while self.progress.updates < phase.steps and not self.best.is_over:
            cause = self._step()
            if cause:
                self.ranks.say(f"stopping after step {self.progress.step}: {cause}")
                self._checkpoint_now()
                return self._outcome(cause)
            at = self.progress.step
            last = self.progress.updates == phase.steps
            if last or (phase.validate_every and at % phase.validate_every == 0):
                self._validate()
            if at % phase.checkpoint_every == 0 or self.best.step == at:
                self._begin_checkpoint()
                self._deals = self.job.spec.rebalance
        self._checkpoint_now()
        return self._outcome(Cause.DONE)

    def _outcome(self, cause: Cause) -> Outcome:
        step, lead_s = self.progress.step, round(self.saving.lead.seconds, 1)
        return Outcome(cause is Cause.DONE, cause, step, lead_s, self.best.step)

    def _step(self) -> Cause | None:
        """One optimizer step; or the cause to stop, if any rank has one."""
        started, progress = time.perf_counter(), self.progress
        self.watchdog.beat(progress.step + 1, "reading")
        micro_batches, error = self._read_ahead or self._next()
        self._read_ahead, self._waited_s = None, time.perf_counter() - started
        counts, cause = self._agree(micro_batches, error)
        if cause:
            return cause

        self.watchdog.beat(progress.step + 1, "training")
        batch = self.learner.global_batch(counts)
        scale, rate = progress.loss_scale.scale, self._rate(progress.updates)
        places = self.learner.places(micro_batches)
        plan = replace(self._plan, number=progress.step, divisors=batch.divisors, places=places, loss_scale=scale)
        self.optimizer.set_learning_rate(rate)
        result = train_step(
            self.wrapped, self.optimizer, micro_batches, plan, self.device, self._read_next, self._timed
        )
        sums = self.ranks.sum_on_device(result.sums).tolist()
        self.progress = progress.after(result.skipped)
        took = time.perf_counter() - started

        line = self._line(batch, plan, sums, result, learning_rate=rate, step_time_s=took)
        self.metrics.step(line, self.job.phase.steps, self.job.objective.step_words(line))
        self.saving.lead.after_step(took)
        self._check_finite(result, plan, line)
        return None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Around each forward pass: a step of many micro-batches may take longer than the watchdog waits."""
        self.watchdog.beat(self.progress.step + 1, "training")
        with self._pace.timed():
            yield

    def _read_next(self) -> None:
        """Read the next step's micro-batches while the device computes this one's; none after what may be the last
        step. An error is kept until that step begins."""
        progress = self.progress
        if progress.updates + 1 == self.job.phase.steps or progress.step + 1 == self._last_step:
            return
        self.watchdog.beat(progress.step + 1, "reading the next step's batches")
        started = time.perf_counter()
        self._read_ahead = self._next()
        if not is_busy(self.device):
            self._waited_s += time.perf_counter() - started
        self.watchdog.beat(progress.step + 1, "training")

    @property
    def _is_enough(self) -> bool:
        """Whether this attempt has done all the steps it was started for (``STEPS_THIS_RUN``)."""
        return self._last_step is not None and self.progress.step >= self._last_step

    def _next(self) -> tuple[Sequence[MicroBatch], InputError | None]:
        """The next step's micro-batches, [] after the last step; or what is wrong with the data."""
        try:
            return [] if self._is_enough else next(self.batches), None
        except InputError as error:
            return [], error

    def _agree(self, micro_batches: Sequence[MicroBatch], error: InputError | None) -> tuple[list[int], Cause | None]:
        """What all ranks agree on at a step's beginning: the counts of the global batch, or why to stop.

        Raises:
            InputError: a rank has an ``error``; a checkpoint was written.
            NotOwnerError: another attempt has taken the run over; nothing more was written.
        """
        signals = [int(self.stop.signal == number) for number in STOP_SIGNALS]
        row = self._pace.row(self.progress.step)
        own = [*signals, int(self._is_enough), int(self._is_lost()), int(error is not None), *self.saving.flags, *row]
        total = iter(self.ranks.sum_on_host(*own, *self.learner.count(micro_batches)))
        signals = [next(total) for _ in signals]
        enough, lost, wrong, writing, unwritten = (next(total) for _ in range(5))
        row = [next(total) for _ in row]
        counts = list(total)
        if lost:
            self.ranks.decided(lambda: check_still_owner(self.job))
        self.saving.settle(writing, unwritten)
        if wrong:
            if self.job.spec.on_bad_shard == "skip":  # the next attempt detects it at its start, and skips it
                return counts, Cause.BAD_SHARD
            self._checkpoint_now()
            self.ranks.raise_first(error)
        if row:
            self._take_in(row)
        causes = [Cause(number.name) for number, count in zip(STOP_SIGNALS, signals, strict=True) if count]
        if enough:
            causes.append(Cause.STEPS_THIS_RUN)
        return counts, causes[0] if causes else None

    def _take_in(self, row: Sequence[int]) -> None:
        """Name the ranks that have become slow, or no longer are; deal the packs anew from the next step on, where that
        is worth it. This step's have been read."""
        step = self.progress.step
        for change in self._pace.learn(step, row):
            slow = replace(change, node=self.ranks.node_of(change.rank))
            self.ranks.say(slow_words(slow, self.ranks.size))
            self._note("slow rank", **asdict(slow))
        if self._deals:
            self._deals = False
            self._deal(step + 1, self._pace.seconds, GAIN)

    def _deal(self, done: int, seconds: Sequence[float], gain: float) -> None:
        """Deal the packs by the ``seconds`` that each rank takes for one, from the step after ``done`` on."""
        if dealt := self.batches.deal(done, seconds, gain):
            self.ranks.say(f"from step {done + 1} on, ranks compute {', '.join(map(str, dealt))} packs per step")
            self._note("dealt", step=done + 1, packs=dealt)

    def _note(self, event: str, **fields: Any) -> None:
        """Write an event to the journal, on rank 0; if it cannot be written, the log still says it."""
        if self.ranks.is_first:
            with suppress(OSError):
                record(self.job, event, **fields)

    def _is_lost(self) -> bool:
        """Whether another attempt has taken the run over: rank 0 looks now and then. If it cannot see, as when the file
        server is away, it looks again later."""
        now = time.monotonic()
        if not self.ranks.is_first or now - self._looked_s < BEAT_S:
            return False
        self._looked_s = now
        try:
            return not still_owns(self.job)
        except OSError:
            return False

    def _line(
        self,
        batch: GlobalBatch,
        plan: StepPlan,
        sums: Sequence[float],
        result: StepResult,
        *,
        learning_rate: float,
        step_time_s: float,
    ) -> dict[str, Any]:
        """The step that was just made, for metrics.jsonl; ``sums`` are those of all ranks."""
        saved = self.saving.take_times()
        return step_metrics(
            phase=self.job.phase.phase,
            step=self.progress.step,
            attempt=self.job.placement.attempt,
            time_unix_s=round(time.time(), 3),
            learning_rate=learning_rate,
            gradient_norm=result.gradient_norm,
            loss_scale=plan.loss_scale,
            skipped_steps=self.progress.skipped,
            data_wait_s=round(self._waited_s, 4),
            checkpoint_s=saved.wall_s,
            checkpoint_stall_s=saved.stall_s,
            peak_memory_gb=round(peak_memory_gb(self.device), 3),
            measures=self.job.objective.measures(sums, batch.divisors),
            batch=batch,
            peak_flops=self._peak_flops,
            step_time_s=step_time_s,
        )

    def _check_finite(self, result: StepResult, plan: StepPlan, line: dict[str, Any]) -> None:
        """End a run whose gradients are never finite: more steps would not fix it.

        Raises:
            BertjobsError: the diagnosis.
        """
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if result.skipped else 0
        if self._skipped_in_a_row == SKIPS_ALLOWED:
            self.ranks.decided(lambda: self._give_up(plan, line))

    def _give_up(self, plan: StepPlan, line: dict[str, Any]) -> None:
        losses = self.job.objective.losses
        diagnosis = diagnose(
            self.learner.model,
            phase=self.job.phase.phase,
            step=line["step"],
            skipped_in_a_row=self._skipped_in_a_row,
            precision=plan.precision,
            loss_scale=plan.loss_scale,
            losses={field: line[field] for field in losses},
            sequences=self.batches.samples(plan.number),
        )
        raise diagnosis.error(diagnosis.write(self.job.folder.root), losses)

    def _validate(self) -> None:
        step, began = self.progress.step, time.perf_counter()
        scores = self.learner.validate(lambda: self.watchdog.beat(step, "validating"))
        took = round(time.perf_counter() - began, 4)
        line = {"phase": self.job.phase.phase, "step": step, "validation_s": took, **scores}
        self.saving.lead.after_validation(took)
        self.metrics.validation(line, self.job.objective.validation_words(line))
        if self.best.see(line):
            self.saving.keep(step)

    def _begin_checkpoint(self) -> None:
        self.watchdog.beat(self.progress.step, "beginning a checkpoint")
        self.saving.begin(self.learner.model, self.optimizer, self.progress, self.batches.state(self.progress.step))

    def _checkpoint_now(self) -> None:
        """Write a checkpoint of this step; it is complete when this returns.

        Raises:
            BertjobsError: it cannot be written.
        """
        self.watchdog.beat(self.progress.step, "writing a checkpoint")
        self.saving.save_now(self.learner.model, self.optimizer, self.progress, self.batches.state(self.progress.step))


def slow_words(change: SlowRank, ranks: int) -> str:
    """A rank that has become slow, or no longer is, for the log."""
    which, since = f"rank {change.rank} of {ranks} on {change.node}", f"since step {change.step}"
    if not change.times:
        return f"{which} is as fast as the others again, {since}"
    return f"warning: {which} takes {change.times:g} times as long as others per micro-batch, {since}"
