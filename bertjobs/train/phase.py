"""Training one phase: from its starting point to DONE.json, or to an agreed stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bertjobs.data.batches import NOT_SCORED
from bertjobs.data.stream import StreamState
from bertjobs.errors import BertjobsError
from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.build import build_optimizer
from bertjobs.optim.lamb import Lamb
from bertjobs.optim.schedule import learning_rate
from bertjobs.run.atomic import sha256_of
from bertjobs.run.checkpoints import MANIFEST, folder_name
from bertjobs.run.directory import Done, PhaseDirectory
from bertjobs.train.checkpoint import CheckpointWriter, Progress
from bertjobs.train.job import Job, check_settings, open_directory, record
from bertjobs.train.metrics import MetricsLog, step_metrics
from bertjobs.train.ranks import Ranks
from bertjobs.train.shards import PhaseShards, open_shards, open_stream
from bertjobs.train.signals import STOP_SIGNALS, StopRequest
from bertjobs.train.start import find_start, load_start
from bertjobs.train.step import StepPlan, train_step
from bertjobs.train.validation import Validation

SKIPS_ALLOWED = 25


@dataclass(frozen=True)
class Outcome:
    """How a phase's attempt ended: ``cause`` is "done", a signal's name or "STEPS_THIS_RUN"."""

    done: bool
    cause: str
    step: int


def train_phase(job: Job, ranks: Ranks, device: torch.device, stop: StopRequest) -> Outcome:
    """Train until the phase is done or all ranks agree to stop; a checkpoint is written either way.

    Raises:
        InputError: the run's settings or the weights to start from are not as they must be; nothing was written.
        BertjobsError: the training failed.
    """
    directory = job.directory.phase(job.phase.phase)
    done = ranks.decided(lambda: _already_done(job, directory))
    if done is not None:
        ranks.say(f"phase {done.phase} is done already: {directory.done_file}")
        return Outcome(True, "done", done.step)
    start = ranks.decided(lambda: find_start(job))
    shards = open_shards(job, ranks)
    torch.manual_seed(job.spec.seed)
    model = BertForPreTraining(job.spec.model).to(device)
    optimizer = build_optimizer(model, job.spec.optimizer, job.phase.lr)
    progress, words = ranks.in_turn(lambda: load_start(start, model, optimizer))
    ranks.decided(lambda: open_directory(job))
    if shards.skipped:
        ranks.decided(lambda: record(job, "skipped shards", shards=list(shards.skipped)))
    ranks.say(words)
    trainer = Trainer(job, directory, ranks, device, stop, model, optimizer, progress, shards, start.data)
    if start.kind == "resume":
        trainer.saved_step = progress.step
    return trainer.run()


def _already_done(job: Job, directory: PhaseDirectory) -> Done | None:
    check_settings(job)
    return directory.done()


class Trainer:
    """The loop over optimizer steps of one phase on one rank."""

    def __init__(
        self,
        job: Job,
        directory: PhaseDirectory,
        ranks: Ranks,
        device: torch.device,
        stop: StopRequest,
        model: BertForPreTraining,
        optimizer: Lamb,
        progress: Progress,
        shards: PhaseShards,
        data: StreamState | None,
    ):
        phase = job.phase
        self.job, self.directory, self.ranks, self.device, self.stop = job, directory, ranks, device, stop
        self.model, self.optimizer, self.progress = model, optimizer, progress
        self.wrapped = ranks.wrapped(model, device)
        self.stream = open_stream(job, ranks, shards, data, device)
        self.validation = Validation(job, shards, ranks, device)
        self.metrics = MetricsLog(directory.metrics, directory.validation, active=ranks.is_first)
        self.metrics.resume_after(progress.step)
        self.writer = CheckpointWriter(
            directory.checkpoints, phase.phase, job.recipe_hash, job.data.vocabulary_path, job.data.lowercase
        )
        self.first_step = progress.step
        self.saved_step: int | None = None
        self.skipped_in_a_row = 0

    def run(self) -> Outcome:
        """Step until done or stopped."""
        phase = self.job.phase
        batches = iter(self.stream)
        try:
            while self.progress.updates < phase.steps:
                cause = self._step(batches)
                if cause:
                    self.ranks.say(f"stopping after step {self.progress.step}: {cause}")
                    self._checkpoint()
                    return Outcome(False, cause, self.progress.step)
                at = self.progress.step
                last = self.progress.updates == phase.steps
                if last or (phase.validate_every and at % phase.validate_every == 0):
                    self._validate()
                if last or (phase.checkpoint_every and at % phase.checkpoint_every == 0):
                    self._checkpoint()
        finally:
            self.stream.close()
        self.ranks.decided(self._write_done)
        return Outcome(True, "done", self.progress.step)

    def _step(self, batches: Iterator) -> str | None:
        """One optimizer step; or the cause to stop, if one of the ranks has one."""
        spec, phase, progress = self.job.spec, self.job.phase, self.progress
        started = time.perf_counter()
        limit = spec.steps_this_run and progress.step - self.first_step >= spec.steps_this_run
        micro_batches = [] if limit else next(batches)
        waited = time.perf_counter() - started
        masked = sum(int((batch.labels != NOT_SCORED).sum()) for batch in micro_batches)
        tokens = sum(batch.tokens for batch in micro_batches)
        asked = [int(self.stop.signal == number) for number in STOP_SIGNALS]
        *asked, masked, tokens = self.ranks.sum_on_host(*asked, masked, tokens)
        for number, count in zip(STOP_SIGNALS, asked, strict=True):
            if count:
                return number.name
        if limit:
            return "STEPS_THIS_RUN"

        rate = learning_rate(progress.updates, base=phase.lr, warmup=phase.warmup, total=phase.steps)
        self.optimizer.set_learning_rate(rate)
        plan = StepPlan(
            number=progress.step,
            masked_tokens=masked,
            sequences=phase.global_batch,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            precision=spec.precision,
            loss_scale=progress.loss_scale.scale if spec.precision == "fp16" else 1.0,
            seed=spec.seed + phase.phase,
        )
        result = train_step(self.wrapped, self.optimizer, micro_batches, plan, self.device)
        sums = self.ranks.sum_on_device(result.sums).tolist()
        self.progress = progress.after(result.skipped)
        self._check_finite(result.skipped)
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
            sums=sums,
            masked_tokens=masked,
            sequences=phase.global_batch,
            tokens=tokens,
            step_time_s=time.perf_counter() - started,
        )
        self.metrics.step(line, phase.steps)
        return None

    def _check_finite(self, skipped: bool) -> None:
        """End a run whose gradients are never finite: waiting longer does not mend it."""
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        if self.skipped_in_a_row == SKIPS_ALLOWED:
            self.ranks.decided(self._refuse_to_go_on)

    def _refuse_to_go_on(self) -> None:
        raise BertjobsError(
            f"{SKIPS_ALLOWED} steps in a row had gradients that are not finite",
            where=f"phase {self.job.phase.phase}, step {self.progress.step}",
            hint="lower the learning rate, or train in bf16 or fp32",
        )

    def _validate(self) -> None:
        self.metrics.validation(
            {"phase": self.job.phase.phase, "step": self.progress.step, **self.validation.run(self.model)}
        )

    def _checkpoint(self) -> None:
        """Rank 0 writes; the others wait, so that none leaves while it writes."""
        if self.saved_step != self.progress.step:
            self.ranks.decided(self._write_checkpoint)
            self.saved_step = self.progress.step

    def _write_checkpoint(self) -> None:
        data = self.stream.state(self.progress.step)
        print(f"checkpoint {self.writer.write(self.model, self.optimizer, self.progress, data)}", flush=True)

    def _write_done(self) -> None:
        number, step = self.job.phase.phase, self.progress.step
        name = folder_name(step)
        manifest = sha256_of(self.directory.checkpoints / name / MANIFEST)
        self.directory.write_done(Done(number, step, name, manifest, self.job.recipe_hash, round(time.time(), 3)))
        print(f"phase {number} is done: {self.directory.done_file}", flush=True)
