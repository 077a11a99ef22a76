"""One rank, from its environment to its exit code (contract 3 of the design)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from bertjobs.errors import CAUSE, EXIT_CONTINUE, EXIT_DONE, InputError
from bertjobs.files.atomic import write_text
from bertjobs.recipe.groups import nodes_words
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.owner import NotOwnerError
from bertjobs.run.suspects import excluded, suspects
from bertjobs.run.torch_wheels import check_architecture
from bertjobs.train.caches import close_cache, open_cache
from bertjobs.train.failure import cause_of, exit_code, explanation, is_lost_connection, kept
from bertjobs.train.job import PhaseJob, check_budgets, check_owner, record, record_failure, resolve_job
from bertjobs.train.nodes.affinity import bind_near_gpu
from bertjobs.train.nodes.check import Disk, UnfitNodesError, settle
from bertjobs.train.nodes.measure import look_at_nodes, measure_network
from bertjobs.train.objective import ObjectiveOf
from bertjobs.train.objectives import objective_of as chosen_objective
from bertjobs.train.phase import train_phase
from bertjobs.train.placement import Placement, read_placement
from bertjobs.train.precision import (
    check_precision,
    deterministic_environment,
    use_deterministic,
    use_precision,
)
from bertjobs.train.ranks import JOIN_TIMEOUT_S, FirstRankFailedError, Ranks, joined
from bertjobs.train.signals import StopRequest
from bertjobs.wording import counted

LINGER_S = 1.0


def main(environ: Mapping[str, str], stop: StopRequest, objective_of: ObjectiveOf = chosen_objective) -> int:
    """Run this rank; returns its exit code. ``objective_of`` makes the objective from the resolved run.

    An error that ends all ranks alike is printed by rank 0, and only rank 0 returns its code. Under srun's
    --kill-on-bad-exit the first nonzero code kills the remaining tasks, and srun then reports the kill: so this rank
    lingers until the others are gone.
    """
    placement = None
    try:
        placement = read_placement(environ)
        with joined(placement, join_timeout_s(environ), environ) as ranks:
            code = train_as_asked(environ, ranks, stop, objective_of)
    except FirstRankFailedError:
        code = EXIT_DONE
    except NotOwnerError as error:
        print(error.render(), flush=True)
        code = error.exit_code
    except Exception as error:
        print(explanation(error, placement.rank if placement else 0), file=sys.stderr, flush=True)
        code = exit_code(error)
    if code != EXIT_DONE and placement and placement.world_size > 1:
        time.sleep(LINGER_S)
    if placement and placement.local_rank == 0:
        close_cache(os.environ)
    return code


def train_as_asked(environ: Mapping[str, str], ranks: Ranks, stop: StopRequest, objective_of: ObjectiveOf) -> int:
    """Do what the environment asks for and write the journal; all ranks are in the process group."""
    ranks.agree_on_attempt()
    job = ranks.in_turn(lambda: resolve_job(environ, ranks.placement, objective_of))
    if job.spec.gpus:
        os.environ.update(open_cache(environ))  # before anything is compiled
    if job.spec.deterministic:
        os.environ.update(deterministic_environment(environ))  # before a GPU is used
        use_deterministic(True)
    ranks.decided(lambda: check_owner(job))
    try:
        ranks.decided(lambda: check_budgets(job))
        check_nodes(job, ranks, environ)
        device = ranks.in_turn(lambda: choose_device(job.spec, job.placement))
        set_up_process(job, device, environ)
        connect_ranks(job, ranks, device, environ)
        ranks.say(describe(job, device))
        outcome = train_phase(job, ranks, device, stop)
    except (FirstRankFailedError, NotOwnerError):  # in the second case the journal is another attempt's
        raise
    except Exception as error:
        if ranks.is_first:
            record_failure(job, error, ranks.reported_failure() if is_lost_connection(error) else None)
            if isinstance(error, UnfitNodesError):
                with suppress(OSError):
                    write_exclusions(job)
        elif not is_lost_connection(error):
            ranks.report_failure({CAUSE: cause_of(error), "error": kept(error, ranks.rank)})
        raise
    code = EXIT_DONE if outcome.done else EXIT_CONTINUE
    ranks.decided(lambda: record(job, "ended", cause=outcome.cause, exit_code=code, step=outcome.step,
                                 lead_s=outcome.lead_s))  # fmt: skip
    return code if ranks.is_first else EXIT_DONE


def write_exclusions(job: PhaseJob) -> None:
    """Write the nodes that the next link is to avoid, for run.sub: those in the register on which training was refused,
    separated by commas. Nobody here knows how many others the partition can spare."""
    unfit = [suspect for suspect in suspects(Path(job.spec.results), time.time()) if suspect.fatal]
    nodes = excluded(unfit, len(unfit))
    if nodes:
        write_text(job.folder.exclude, ",".join(nodes))


def join_timeout_s(environ: Mapping[str, str]) -> float:
    """How long ranks wait for each other at the start: ``BERTJOBS_JOIN_TIMEOUT_S``, by default 300 seconds.

    Raises:
        InputError: it is not a number above 0.
    """
    value = environ.get("BERTJOBS_JOIN_TIMEOUT_S") or str(JOIN_TIMEOUT_S)
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"BERTJOBS_JOIN_TIMEOUT_S={value!r} is not a number of seconds above 0", where="environment")
    return seconds


def check_nodes(job: PhaseJob, ranks: Ranks, environ: Mapping[str, str]) -> None:
    """Check the nodes before anything is opened on them.

    Raises:
        UnfitNodesError: these nodes are unfit to train on.
    """
    spec = job.spec
    disks = [Disk(spec.results, job.objective.checkpoint_bytes, shared=True)]
    gpus = job.placement.tasks_on_node if spec.gpus else 0
    facts = look_at_nodes(ranks, job.placement, gpus, disks, environ)
    settle(ranks, facts, job.placement, Path(spec.results), spec.run)


def choose_device(spec: RunSpec, placement: Placement) -> torch.device:
    """This rank's GPU, or the CPU where the run uses none.

    Raises:
        InputError: the recipe asks for a GPU that this process does not see or that torch has no code for, or for a
            precision that the GPU lacks.
    """
    device = torch.device("cpu")
    if spec.gpus:
        seen = torch.cuda.device_count()
        index = gpu_index(placement.local_rank, seen)
        if index >= seen:
            raise InputError(
                f"rank {placement.rank} needs GPU {index} of its node, but torch sees only {seen}",
                where=f"recipe {spec.recipe}, node of rank {placement.rank}",
                hint="ask Slurm for the GPUs (--gpus-per-node), or set GPUS=0 to train on the CPU",
            )
        check_torch(index)
        torch.cuda.set_device(index)
        device = torch.device("cuda", index)
    check_precision(spec.precision, device)
    return device


def gpu_index(local_rank: int, seen: int) -> int:
    """Which of the GPUs that this process sees is its own: where it sees one, Slurm has already chosen that for its
    task (``--gpus-per-task``, ``--gpu-bind``)."""
    return 0 if seen == 1 else local_rank


def check_torch(index: int) -> None:
    """Make sure that this torch has code for a GPU, before that GPU is opened; torch's builds for AMD are not judged.

    Raises:
        InputError: it has none; says which wheel has it.
    """
    if torch.version.cuda:
        name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        check_architecture(name, capability, torch.cuda.get_arch_list(), torch.__version__, torch.version.cuda)


def set_up_process(job: PhaseJob, device: torch.device, environ: Mapping[str, str]) -> None:
    """Bind this process to the CPUs near its device, and set what is global in torch: threads and precision."""
    placement = job.placement
    if device.type == "cuda" and (words := bind_near_gpu(placement.local_rank, placement.tasks_on_node, environ)):
        print(f"rank {placement.rank}: {words}", flush=True)
    if device.type == "cpu":
        torch.set_num_threads(int(environ.get("OMP_NUM_THREADS") or 1))
    use_precision(job.spec.precision)


def connect_ranks(job: PhaseJob, ranks: Ranks, device: torch.device, environ: Mapping[str, str]) -> None:
    """Open the network that the gradients travel over, and measure it.

    Raises:
        UnfitNodesError: it is too slow to train on.
    """
    spec = job.spec
    ranks.set_timeout(spec.hang_timeout_s)
    ranks.connect_gradients(device)
    settle(ranks, measure_network(ranks, device, environ), job.placement, Path(spec.results), spec.run)


def describe(job: PhaseJob, device: torch.device) -> str:
    """The head of the worker's log: the job as the worker understood it."""
    spec, phase, placement = job.spec, job.phase, job.placement
    return "\n".join(
        [
            f"run {spec.run}: recipe {spec.recipe}, phase {phase.phase}, model {spec.model.name}, {spec.precision}, "
            f"optimizer {spec.optimizer.name}, seed {spec.seed}",
            f"world size {spec.world_size} = {nodes_words(placement.ranks_of_nodes)}, {device.type}",
            f"global batch {phase.global_batch} = rank batch (BATCHSIZE) {phase.rank_batch} x "
            f"{counted(spec.world_size, 'rank')}; "
            f"rank batch = gradient steps (GRADIENT_STEPS) {phase.gradient_steps} x micro-batch {phase.micro_batch}",
            f"learning rate (LR) {phase.lr:g}, warm-up {phase.warmup:g}, {phase.steps} steps of length "
            f"{phase.sequence_length}",
            *other_batch(job),
        ]
    )


def other_batch(job: PhaseJob) -> list[str]:
    """A warning if BATCHSIZE makes another global batch than the recipe's, for which its learning rate was chosen."""
    spec, phase, intended = job.spec, job.phase, job.recipe_batch
    if phase.global_batch == intended:
        return []
    per_rank, rest = divmod(intended, spec.world_size)
    keep = "leave BATCHSIZE out" if rest else f"leave BATCHSIZE out, or set BATCHSIZE={per_rank}"
    return [
        f"warning: the global batch is {phase.global_batch}, but recipe {spec.recipe} has {intended}: to keep that, "
        f"{keep}"
    ]
