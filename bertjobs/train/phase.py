"""Training one phase: from its starting point to DONE.json, or to an agreed stop."""

from __future__ import annotations

import time
from contextlib import closing

import torch

from bertjobs.data.batches.batches import BatchStream
from bertjobs.data.batches.packed_batches import empty_pack
from bertjobs.data.check.shard_watch import ShardWatch
from bertjobs.data.shards.shard_check import shards_of
from bertjobs.errors import InputError
from bertjobs.files.atomic import sha256_of
from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.build import BACKENDS, build_optimizer
from bertjobs.optim.sharding import StateShare
from bertjobs.recipe.lockfile import decisive_settings
from bertjobs.run.checkpoints import MANIFEST, folder_name
from bertjobs.run.directory import Done, PhaseDirectory
from bertjobs.train.checkpoint.saving import Saving
from bertjobs.train.checkpoint.start import Start, find_start, load_start
from bertjobs.train.checkpoint.state import Progress
from bertjobs.train.checkpoint.stop_time import Lead
from bertjobs.train.checkpoint.writer import CheckpointSeries, CheckpointWriter
from bertjobs.train.forward import open_forward
from bertjobs.train.job import Job, check_settings, open_directory, record
from bertjobs.train.loop import Outcome, Trainer
from bertjobs.train.metrics import MetricsLog
from bertjobs.train.phase_data import PhaseShards, open_shards, open_stream
from bertjobs.train.ranks import Ranks
from bertjobs.train.signals import StopRequest
from bertjobs.train.validation import Validation
from bertjobs.train.watchdog import Watchdog


def train_phase(job: Job, ranks: Ranks, device: torch.device, stop: StopRequest) -> Outcome:
    """Train until the phase is done or all ranks agree to stop; a checkpoint is written either way.

    Raises:
        InputError: the run's settings or the weights to start from are not as they must be, and nothing was written;
            or a shard was altered during the training.
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
    model = BertForPreTraining(job.spec.model, activation_checkpointing=job.spec.activation_checkpointing).to(device)
    forward = ranks.in_turn(lambda: open_forward(model, job.spec, device))
    shard = StateShare(ranks.rank, ranks.size, ranks.gradients)
    optimizer = ranks.in_turn(
        lambda: build_optimizer(model, job.spec.optimizer, job.phase.lr, device=device, group=shard)
    )
    check_backends(optimizer.backend, ranks)
    progress, words = ranks.in_turn(lambda: load_start(start, job, model, optimizer))
    ranks.decided(lambda: open_directory(job, step=progress.step, optimizer_backend=optimizer.backend))
    if shards.skipped:
        ranks.decided(lambda: record(job, "skipped shards", shards=list(shards.skipped)))
    ranks.say(f"{words}\noptimizer {job.spec.optimizer.name}, backend {optimizer.backend}\n{forward.describe()}")
    with (
        Watchdog(job.spec.hang_timeout_s, job.placement, ranks.arrivals) as watchdog,
        _watch(job, shards, ranks) as shard_watch,
        closing(open_stream(job, ranks, shards, start.data, device)) as stream,
        closing(
            MetricsLog(directory.metrics, directory.validation, directory.tensorboard, active=ranks.is_first)
        ) as metrics,
    ):
        if isinstance(stream, BatchStream) and stream.packing is not None:
            forward.warm_up(empty_pack(shards.train, shards.masking, stream.packing).to(device), job.spec.precision)
        metrics.resume_after(progress.step)
        saving = _saving(job, ranks, metrics, start, progress)
        saving.reserve(model, optimizer)
        trainer = Trainer(
            job=job,
            ranks=ranks,
            device=device,
            stop=stop,
            model=model,
            wrapped=ranks.wrapped(forward, device, compression=job.spec.gradient_compression),
            optimizer=optimizer,
            progress=progress,
            stream=stream,
            validation=Validation(job, shards, ranks, device, watchdog),
            metrics=metrics,
            saving=saving,
            watchdog=watchdog,
            shard_watch=shard_watch,
        )
        outcome = trainer.run()
    if outcome.done:
        ranks.decided(lambda: _write_done(job, directory, outcome.step))
    return outcome


def _already_done(job: Job, directory: PhaseDirectory) -> Done | None:
    check_settings(job)
    return directory.done()


def check_backends(backend: str, ranks: Ranks) -> None:
    """Make sure that all ranks compute the update in the same way: else their weights would drift apart.

    Raises:
        InputError: they do not; says how many compute it how.
    """
    counts = dict(zip(BACKENDS, ranks.sum_on_host(*(int(backend == name) for name in BACKENDS)), strict=True))
    found = {name: count for name, count in counts.items() if count}
    if len(found) > 1:
        words = ", ".join(f"{name} on {count}" for name, count in found.items())
        ranks.raise_first(
            InputError(
                f"the ranks would update the weights in different ways: {words}",
                where="optimizer.backend",
                hint="install the same software on all nodes, or set optimizer.backend: torch",
            )
        )


def _watch(job: Job, shards: PhaseShards, ranks: Ranks) -> ShardWatch:
    """Watches this rank's share of the shards; none where each node reads a copy of its own."""
    if job.spec.local_copy:
        return ShardWatch([])
    read = [shard for shard in shards_of(job.data.phase(job.phase.phase)) if shard.name not in shards.skipped]
    return ShardWatch(read[ranks.rank :: ranks.size])


def _saving(job: Job, ranks: Ranks, metrics: MetricsLog, start: Start, progress: Progress) -> Saving:
    placement = job.placement
    series = CheckpointSeries(
        directory=job.directory.phase(job.phase.phase),
        recipe_hash=job.recipe_hash,
        settings=decisive_settings(job.spec, job.phase.phase),
        vocabulary=job.data.vocabulary_path,
        lowercase=job.data.lowercase,
        attempt=f"{placement.job}-{placement.attempt}",
        rank=ranks.rank,
        world_size=ranks.size,
        keep=job.spec.keep_checkpoints,
    )
    saved_step = progress.step if start.kind == "resume" else None
    return Saving(CheckpointWriter(series), ranks, metrics, Lead(), saved_step)


def _write_done(job: Job, directory: PhaseDirectory, step: int) -> None:
    name = folder_name(step)
    manifest = sha256_of(directory.checkpoints / name / MANIFEST)
    number = directory.number
    directory.write_done(Done(number, step, name, manifest, job.recipe_hash, round(time.time(), 3)))
    print(f"phase {number} is done: {directory.done_file}", flush=True)
