"""One rank, from its environment to its exit code (contract 3 of the design)."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from bertjobs.errors import EXIT_CONTINUE, EXIT_DONE, EXIT_FAILURE, BertjobsError, InputError
from bertjobs.files.atomic import write_text
from bertjobs.recipe.size import checkpoint_bytes
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.causes import Cause
from bertjobs.run.suspects import excluded, suspects
from bertjobs.train.job import Job, check_budgets, record, resolve_job
from bertjobs.train.nodes.affinity import bind_near_gpu
from bertjobs.train.nodes.check import Disk, UnfitNodesError, settle
from bertjobs.train.nodes.measure import look_at_nodes, measure_network
from bertjobs.train.phase import train_phase
from bertjobs.train.placement import Placement, read_placement
from bertjobs.train.precision import (
    check_precision,
    deterministic_environment,
    use_deterministic,
    use_precision,
)
from bertjobs.train.ranks import JOIN_TIMEOUT_S, FirstRankFailedError, Ranks, is_lost_connection, joined
from bertjobs.train.signals import StopRequest

LINGER_S = 1.0


def main(environ: Mapping[str, str], stop: StopRequest) -> int:
    """Run this rank; returns its exit code.

    What ends all ranks alike is told by rank 0, and only rank 0 returns its code. Under srun's --kill-on-bad-exit
    the first code that is not 0 kills the tasks that are still there, and srun then reports the kill: so this rank
    lingers until the others are gone.
    """
    placement = None
    try:
        placement = read_placement(environ)
        with joined(placement, join_timeout_s(environ)) as ranks:
            code = work(environ, placement, ranks, stop)
    except FirstRankFailedError:
        return EXIT_DONE
    except Exception as error:
        print(explanation(error, placement), file=sys.stderr, flush=True)
        code = exit_code(error)
    if code != EXIT_DONE and placement and placement.world_size > 1:
        time.sleep(LINGER_S)
    return code


def exit_code(error: Exception) -> int:
    """The exit code that an error stands for."""
    return error.exit_code if isinstance(error, BertjobsError) else EXIT_FAILURE


def cause_of(error: Exception) -> Cause:
    """What the journal has of an error."""
    if isinstance(error, BertjobsError) and error.cause:
        return Cause(error.cause)
    if isinstance(error, InputError):
        return Cause.BAD_INPUT
    if isinstance(error, UnfitNodesError):
        return Cause.UNFIT_NODE
    if isinstance(error, torch.OutOfMemoryError):
        return Cause.GPU_MEMORY
    # By its words: an error of another rank has come as text.
    is_full = any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
    return Cause.DISK if is_full else Cause.CRASHED


def explanation(error: Exception, placement: Placement | None) -> str:
    """What a user reads of an error: a traceback only where nothing better is known."""
    rank = f"rank {placement.rank}: " if placement and not placement.is_first else ""
    if isinstance(error, BertjobsError):
        return rank + error.render()
    if is_lost_connection(error):
        reason = str(error).strip().splitlines()[0]
        return f"{rank}error: another rank is gone; what it printed, if anything, says why ({reason})"
    if isinstance(error, OSError) and error.filename:
        return rank + BertjobsError(error.strerror or type(error).__name__, where=str(error.filename)).render()
    return rank + "".join(traceback.format_exception(error))


def work(environ: Mapping[str, str], placement: Placement, ranks: Ranks, stop: StopRequest) -> int:
    """Do what the environment asks for and keep the journal; all ranks are in the process group."""
    job = ranks.in_turn(lambda: resolve_job(environ, placement))
    if job.spec.deterministic:
        os.environ.update(deterministic_environment(environ))  # before a GPU is used
        use_deterministic(True)
    ranks.decided(lambda: check_budgets(job, environ.get("BERTJOBS_LAST_STATE", "")))
    try:
        device = open_device(job, placement, ranks, environ)
        ranks.say(describe(job, device))
        outcome = train_phase(job, ranks, device, stop)
    except Exception as error:
        if ranks.is_first:
            with suppress(OSError):  # the reason itself matters more
                record(job, "ended", cause=cause_of(error), exit_code=exit_code(error), error=str(error)[:500])
                if isinstance(error, UnfitNodesError):
                    write_exclusions(job)
        raise
    code = EXIT_DONE if outcome.done else EXIT_CONTINUE
    ranks.decided(lambda: record(job, "ended", cause=outcome.cause, exit_code=code, step=outcome.step,
                                 lead_s=outcome.lead_s))  # fmt: skip
    return code if ranks.is_first else EXIT_DONE


def write_exclusions(job: Job) -> None:
    """Name the nodes that the next link is to go without, for run.sub: all of the register, by commas."""
    nodes = excluded(suspects(Path(job.spec.results), time.time()), sys.maxsize)
    if nodes:
        write_text(job.directory.phase(job.phase.phase).exclude, ",".join(nodes))


def join_timeout_s(environ: Mapping[str, str]) -> float:
    """How long ranks wait for each other at the start: ``BERTJOBS_JOIN_TIMEOUT_S``, by default 300 seconds.

    Raises:
        InputError: it is no number above 0.
    """
    value = environ.get("BERTJOBS_JOIN_TIMEOUT_S") or str(JOIN_TIMEOUT_S)
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"BERTJOBS_JOIN_TIMEOUT_S={value!r} is not a number of seconds above 0", where="environment")
    return seconds


def open_device(job: Job, placement: Placement, ranks: Ranks, environ: Mapping[str, str]) -> torch.device:
    """This rank's device, on a node that was looked at, bound to the CPUs near it, and connected to the others'.

    Raises:
        UnfitNodesError: training on these nodes would be useless.
        InputError: as in `choose_device`.
    """
    spec, results = job.spec, Path(job.spec.results)
    disks = [Disk(spec.results, checkpoint_bytes(spec.model, spec.model.vocab_size), shared=True)]
    settle(ranks, look_at_nodes(ranks, placement, spec.gpus, disks, environ), placement, results, spec.run)
    device = ranks.in_turn(lambda: choose_device(spec, placement))
    if device.type == "cuda" and (words := bind_near_gpu(placement.local_rank, placement.tasks_per_node, environ)):
        print(f"rank {placement.rank}: {words}", flush=True)
    ranks.set_timeout(spec.hang_timeout_s)
    ranks.connect_gradients(device)
    settle(ranks, measure_network(ranks, device, environ), placement, results, spec.run)
    if device.type == "cpu":
        torch.set_num_threads(int(environ.get("OMP_NUM_THREADS") or 1))
    use_precision(spec.precision)
    return device


def choose_device(spec: RunSpec, placement: Placement) -> torch.device:
    """This rank's GPU, or the CPU where the run uses none.

    Raises:
        InputError: the recipe asks for a GPU that this process does not see, or for a precision that it lacks.
    """
    device = torch.device("cpu")
    if spec.gpus:
        seen = torch.cuda.device_count()
        index = 0 if seen == 1 else placement.local_rank
        if index >= seen:
            raise InputError(
                f"rank {placement.rank} needs GPU {index} of its node, and torch sees {seen}",
                where=f"recipe {spec.recipe}, node of rank {placement.rank}",
                hint="ask Slurm for the GPUs (--gpus-per-node), or set GPUS=0 to train on the CPU",
            )
        torch.cuda.set_device(index)
        device = torch.device("cuda", index)
    check_precision(spec.precision, device)
    return device


def counted(number: int, noun: str) -> str:
    """``1 task``, ``2 tasks``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def describe(job: Job, device: torch.device) -> str:
    """The head of the worker's log: what it was understood to be asked for."""
    spec, phase, placement = job.spec, job.phase, job.placement
    return "\n".join(
        [
            f"run {spec.run}: recipe {spec.recipe}, phase {phase.phase}, model {spec.model.name}, {spec.precision}, "
            f"optimizer {spec.optimizer.name}, seed {spec.seed}",
            f"world size {spec.world_size} = {counted(placement.nodes, 'node')} x "
            f"{counted(placement.tasks_per_node, 'task')}, {device.type}",
            f"global batch {phase.global_batch} = rank batch (BATCHSIZE) {phase.rank_batch} x {spec.world_size} ranks; "
            f"rank batch = gradient steps (GRADIENT_STEPS) {phase.gradient_steps} x micro-batch {phase.micro_batch}",
            f"learning rate (LR) {phase.lr:g}, warm-up {phase.warmup:g}, {phase.steps} steps of length "
            f"{phase.sequence_length}",
        ]
    )
