"""Training one phase: from its starting point to DONE.json, or to an agreed stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

import torch

from bertjobs.errors import InputError
from bertjobs.files.atomic import sha256_of
from bertjobs.files.json_lines import read_lines
from bertjobs.optim.base import Optimizer
from bertjobs.optim.build import BACKENDS, build_optimizer
from bertjobs.optim.sharding import StateShare
from bertjobs.run.causes import Cause
from bertjobs.run.checkpoints import MANIFEST, folder_name
from bertjobs.run.directory import Done
from bertjobs.run.own_job import SIGNAL_LEAD_S
from bertjobs.run.settings import check_unchanged
from bertjobs.train.best import Best
from bertjobs.train.checkpoint.saving import Saving
from bertjobs.train.checkpoint.start import find_start, load_start
from bertjobs.train.checkpoint.stop_time import Lead
from bertjobs.train.checkpoint.writer import CheckpointSeries, CheckpointWriter
from bertjobs.train.job import PhaseJob, open_directory, record, record_checkpoint, record_failure
from bertjobs.train.loop import Outcome, Trainer
from bertjobs.train.metrics import MetricsLog
from bertjobs.train.objective import Learner
from bertjobs.train.ranks import Ranks
from bertjobs.train.signals import StopRequest
from bertjobs.train.watchdog import HangError, Watchdog


def train_phase(job: PhaseJob, ranks: Ranks, device: torch.device, stop: StopRequest) -> Outcome:
    """Train until the phase is done or all ranks agree to stop; a checkpoint is written either way.

    Raises:
        InputError: the run's settings or its initial weights are not valid, and nothing was written; or a shard was
            changed during the training.
        BertjobsError: the training failed.
    """
    start = ranks.decided(lambda: _already_done(job) or find_start(job))
    if isinstance(start, Done):
        ranks.say(f"phase {start.phase} is already done: {job.folder.done_file}")
        return Outcome(True, Cause.DONE, start.step)
    torch.manual_seed(job.spec.seed)
    learner = job.objective.open(ranks, device)
    optimizer = ranks.in_turn(lambda: _build_optimizer(job, ranks, learner, device))
    check_backends(optimizer.backend, ranks)
    progress, words = ranks.in_turn(lambda: load_start(start, job, learner, optimizer))
    damaged = {"damaged_step": start.damaged_step} if start.damaged_step else {}
    ranks.decided(lambda: open_directory(job, step=progress.step, optimizer_backend=optimizer.backend, **damaged))
    for event, fields in learner.events.items():
        ranks.decided(partial(record, job, event, **fields))
    ranks.say(f"{words}\noptimizer {job.spec.optimizer.name}, backend {optimizer.backend}\n{learner.describe()}")
    with (
        Watchdog(job.spec.hang_timeout_s, job.placement, ranks.arrivals, _keeper(job, ranks)) as watchdog,
        learner.batches(start.data) as batches,
        closing(_metrics(job, ranks)) as metrics,
    ):
        metrics.resume_after(progress.step)
        saving = _saving(job, ranks, learner, metrics, saved_step=progress.step if start.kind == "resume" else None)
        saving.reserve(learner.model, optimizer)
        best = ranks.decided(lambda: _best(job))
        if best.step is not None:
            saving.keep(best.step)
        trainer = Trainer(
            job=job,
            ranks=ranks,
            device=device,
            stop=stop,
            learner=learner,
            wrapped=ranks.wrapped(
                learner.forward,
                learner.probe,
                bucket_mb=job.spec.ddp_bucket_mb,
                compression=job.spec.gradient_compression,
            ),
            optimizer=optimizer,
            progress=progress,
            batches=batches,
            metrics=metrics,
            saving=saving,
            watchdog=watchdog,
            best=best,
        )
        outcome = trainer.run()
    if outcome.done:
        result = ranks.decided(lambda: _result(job, outcome))
        learner.conclude(job.folder, result, is_current=result == outcome.step)
        ranks.decided(lambda: _write_done(job, result))
    return outcome


def _keeper(job: PhaseJob, ranks: Ranks) -> Callable[[HangError], None]:
    """Writes a hang to the journal, on rank 0."""
    return (lambda error: record_failure(job, error)) if ranks.is_first else (lambda _: None)


def _already_done(job: PhaseJob) -> Done | None:
    check_unchanged(job.spec, job.directory)
    return job.folder.done()


def _build_optimizer(job: PhaseJob, ranks: Ranks, learner: Learner, device: torch.device) -> Optimizer:
    share = StateShare(ranks.rank, ranks.size, ranks.gradients)
    return build_optimizer(learner.model, job.spec.optimizer, job.phase.lr, device=device, group=share)


def _metrics(job: PhaseJob, ranks: Ranks) -> MetricsLog:
    folder, objective = job.folder, job.objective
    return MetricsLog(
        folder.metrics,
        folder.validation,
        folder.tensorboard,
        objective.scores,
        objective.held_out_scores,
        active=ranks.is_first,
    )


def check_backends(backend: str, ranks: Ranks) -> None:
    """Make sure that all ranks compute the update in the same way: otherwise their weights would drift apart.

    Raises:
        InputError: they do not; says how many ranks use which backend.
    """
    counts = dict(zip(BACKENDS, ranks.sum_on_host(*(int(backend == name) for name in BACKENDS)), strict=True))
    used = {name: count for name, count in counts.items() if count}
    if len(used) > 1:
        words = ", ".join(f"{name} on {count}" for name, count in used.items())
        ranks.raise_first(
            InputError(
                f"the ranks would update the weights in different ways: {words}",
                where="optimizer.backend",
                hint="install the same software on all nodes, or set optimizer.backend: torch",
            )
        )


def _saving(job: PhaseJob, ranks: Ranks, learner: Learner, metrics: MetricsLog, *, saved_step: int | None) -> Saving:
    placement = job.placement
    series = CheckpointSeries(
        directory=job.folder,
        recipe_hash=job.recipe_hash,
        settings=job.settings,
        description=learner.description,
        attempt=f"{placement.job}-{placement.attempt}",
        rank=ranks.rank,
        world_size=ranks.size,
        keep=job.spec.keep_checkpoints,
    )
    lead = Lead(SIGNAL_LEAD_S if placement.scheduler == "slurm" else None)
    return Saving(CheckpointWriter(series), ranks, metrics, lead, saved_step, partial(record_checkpoint, job))


def _best(job: PhaseJob) -> Best:
    """The best validation of the attempts before, of those whose checkpoint is there; their lines have been cut to the
    steps that are not repeated."""
    lines = read_lines(job.folder.validation)
    best = Best.of(job.objective.best_by, job.phase.early_stop, lines)
    if best.step is None or _has_checkpoint(job, best.step):
        return best
    return Best.of(best.measure, best.patience, [line for line in lines if _has_checkpoint(job, line["step"])])


def _has_checkpoint(job: PhaseJob, step: int) -> bool:
    return (job.folder.checkpoints / folder_name(step)).is_dir()


def _result(job: PhaseJob, outcome: Outcome) -> int:
    """The step of the checkpoint that is the phase's result. Rank 0 alone calls it."""
    wanted = outcome.best_step or outcome.step
    if _has_checkpoint(job, wanted):
        return wanted
    step = _best(job).step or outcome.step
    print(f"warning: the best checkpoint, of step {wanted}, was not written; the result is that of step {step}")
    return step


def _write_done(job: PhaseJob, step: int) -> None:
    name, number = folder_name(step), job.folder.number
    manifest = sha256_of(job.folder.checkpoints / name / MANIFEST)
    job.folder.write_done(Done(number, step, name, manifest, job.recipe_hash, round(time.time(), 3)))
    print(f"phase {number} is done: {job.folder.done_file}", flush=True)
