"""One rank, from its environment to its exit code (contract 3 of the design)."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Mapping

import torch

from bertjobs.errors import EXIT_CONTINUE, EXIT_DONE, EXIT_FAILURE, BertjobsError, InputError
from bertjobs.train.job import Job, open_directory, resolve_job
from bertjobs.train.phase import train_phase
from bertjobs.train.placement import Placement, read_placement
from bertjobs.train.precision import check_precision, use_precision
from bertjobs.train.ranks import Ranks, joined
from bertjobs.train.signals import StopRequest

GRACE_S = 5.0


def main(environ: Mapping[str, str], stop: StopRequest) -> int:
    """Run this rank; returns its exit code. Errors of the user are told by rank 0 alone, in a few lines."""
    rank = int(environ.get("RANK", environ.get("SLURM_PROCID", "0")) or 0)
    try:
        placement = read_placement(environ)
        job = resolve_job(environ, placement)
        device = choose_device(job, placement)
        check_precision(job.spec.precision, device)
        with joined(placement, device) as ranks:
            return run(job, ranks, device, stop)
    except BertjobsError as error:
        report_failure(error.render(), rank)
        return error.exit_code
    except Exception:
        report_failure(traceback.format_exc(), rank)
        return EXIT_FAILURE


def report_failure(text: str, rank: int) -> None:
    """Print what ended this rank. Ranks mostly fail alike, so the others give rank 0 time to say it first:
    srun and the local launcher end them as soon as one has failed."""
    if rank:
        time.sleep(GRACE_S)
        text = f"rank {rank}: {text}"
    print(text, file=sys.stderr, flush=True)


def choose_device(job: Job, placement: Placement) -> torch.device:
    """This rank's GPU, or the CPU where the run uses none.

    Raises:
        InputError: the recipe asks for a GPU that this process does not see.
    """
    if job.spec.gpus == 0:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
        return torch.device("cpu")
    seen = torch.cuda.device_count()
    index = 0 if seen == 1 else placement.local_rank
    if index >= seen:
        raise InputError(
            f"rank {placement.rank} needs GPU {index} of its node, and torch sees {seen}",
            where=f"recipe {job.spec.recipe}, node of rank {placement.rank}",
            hint="ask Slurm for the GPUs (--gpus-per-node), or set GPUS=0 to train on the CPU",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def describe(job: Job, device: torch.device) -> str:
    """The head of the worker's log: what it was understood to be asked for."""
    spec, phase, placement = job.spec, job.phase, job.placement
    return "\n".join(
        [
            f"run {spec.run}: recipe {spec.recipe}, phase {phase.phase}, model {spec.model.name}, {spec.precision}, "
            f"optimizer {spec.optimizer.name}, seed {spec.seed}",
            f"world size {spec.world_size} = {placement.nodes} nodes x {placement.tasks_per_node} tasks, {device.type}",
            f"global batch {phase.global_batch} = rank batch (BATCHSIZE) {phase.rank_batch} x {spec.world_size} ranks; "
            f"rank batch = gradient steps (GRADIENT_STEPS) {phase.gradient_steps} x micro-batch {phase.micro_batch}",
            f"learning rate (LR) {phase.lr:g}, warm-up {phase.warmup:g}, {phase.steps} steps of length "
            f"{phase.sequence_length}",
        ]
    )


def run(job: Job, ranks: Ranks, device: torch.device, stop: StopRequest) -> int:
    """Train the phase and keep the journal; all ranks are in the process group."""
    use_precision(job.spec.precision)
    placement = job.placement
    names = {"phase": job.phase.phase, "job": placement.job, "attempt": placement.attempt}
    failure = None
    if ranks.is_first:
        try:
            open_directory(job)
        except BertjobsError as error:
            failure = error
    refused = ranks.tell(failure is not None)
    if failure:
        raise failure
    if refused:
        return EXIT_DONE  # rank 0 says why
    if ranks.is_first:
        print(describe(job, device), flush=True)
        job.directory.record("started", world_size=ranks.size, scheduler=placement.scheduler, **names)
    try:
        outcome = train_phase(job, ranks, device, stop)
    except BaseException as error:
        if ranks.is_first:
            code = error.exit_code if isinstance(error, BertjobsError) else EXIT_FAILURE
            cause = "bad input" if isinstance(error, InputError) else "failed"
            job.directory.record("ended", cause=cause, exit_code=code, error=str(error)[:500], **names)
        raise
    code = EXIT_DONE if outcome.done else EXIT_CONTINUE
    if ranks.is_first:
        job.directory.record("ended", cause=outcome.cause, exit_code=code, step=outcome.step, **names)
    ranks.wait()
    # Rank 0 alone says "continue me": with --kill-on-bad-exit the first code that is not 0 ends the others.
    return code if ranks.is_first else EXIT_DONE
