"""The backend ``submitit``: each phase a job of submitit's, continued by submitit's own checkpoint and requeue.

On Slurm its Slurm executor queues all phases; where there is no Slurm its local executor runs one after the other.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from submitit import LocalExecutor
from submitit.core.utils import UncompletedJobError

from bertjobs.errors import EXIT_FAILURE, BertjobsError, InputError
from bertjobs.files.atomic import PRIVATE_FOLDER
from bertjobs.launch.local import POLL_S
from bertjobs.launch.submitit.job import LocalPhaseJob, PhaseJob
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.environment import clean_environment, process_environment
from bertjobs.slurm.executor import submit_call
from bertjobs.slurm.options import SlurmOptions
from bertjobs.slurm.shell import quote, shell_line
from bertjobs.slurm.times import NO_TIME_LIMIT_MIN, SIGNAL_LEAD_S, minutes
from bertjobs.slurm.times import limit_s as parse_limit_s

SETUP = """\
umask 077
trap terminated=1 TERM # else this shell would leave the ranks alone while they write a checkpoint
cpus=${SLURM_CPUS_PER_TASK:-$((SLURM_CPUS_ON_NODE / SLURM_NTASKS_PER_NODE))}
((cpus > 0)) || cpus=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus}
# Rank 0 listens on the first node, which is this one, on a free port of this job's own below the ephemeral range.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol show node "$first" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)
export MASTER_ADDR=${address:-$first} MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000))
while (exec 3<>"/dev/tcp/127.0.0.1/$MASTER_PORT") 2>/dev/null; do MASTER_PORT=$((MASTER_PORT + 1)); done
# What Slurm says of the attempt before, for the journal, where that attempt could not write its own end.
BERTJOBS_LAST_STATE=$(sacct -nXDP -j "$SLURM_JOB_ID" -o State 2>/dev/null | head -n -1 | tail -n 1)
export BERTJOBS_LAST_STATE"""
"""The batch script before srun. The ranks agree on the port as there is one shell that chooses it."""

TEARDOWN = """\
code=$?
# submitit's handler finds no scontrol inside a container.
((code == 75)) && [[ -z ${terminated:-} ]] && scontrol requeue "$SLURM_JOB_ID"
exit "$code\""""
"""The batch script after srun, where ranks run in containers."""

PASSED = ("SUBMITIT_EXECUTOR", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "BERTJOBS_LAST_STATE")
"""Variables that a container must take from outside, whatever its image says."""


def queue_submitit(
    directory: RunDirectory,
    spec: RunSpec,
    options: SlurmOptions,
    *,
    environ: Mapping[str, str],
    after: Sequence[str] = (),
    chain: str = "",
    limit_s: float | None = None,
) -> dict[int, str]:
    """Queue a job for each phase, each behind the end of the one before, the first behind those of ``after``.

    All or nothing: where sbatch refuses one, those queued before are cancelled.

    Args:
        directory: the run's folder; submitit keeps its own files in ``submitit/`` below it.
        spec: its paths must be absolute.
        environ: of the jobs, less what `clean_environment` takes out.
        chain: name of this submission.
        limit_s: the jobs' time limit in seconds where ``options`` give none; infinite for no limit.

    Returns:
        Phase -> job id.

    Raises:
        InputError: sbatch refused; or the time limit is unknown, from which submitit tells a timeout.
        BertjobsError: Slurm's controller gave no answer.
    """
    folder = submitit_folder(directory)
    before = set(folder.iterdir())
    environment = clean_environment(environ)
    jobs: dict[int, str] = {}
    try:
        for phase in spec.phases:
            behind = list(jobs.values())[-1:] or after
            jobs[phase.phase] = submit_call(
                PhaseJob(directory.root, phase.phase, worker_settings(spec, phase.phase, chain)),
                folder,
                environment,
                job_parameters(spec, phase.phase, options, behind, limit_s),
                python=srun_line(spec, phase.phase, options),
                most_timeouts=spec.restarts_time_limit,
            )
    except BaseException:
        if jobs:
            with suppress(BertjobsError):
                Slurm(environment).cancel(list(jobs.values()))
        for file in set(folder.iterdir()) - before:
            file.unlink()
        raise
    for number, id in jobs.items():
        directory.record("submitted", backend="submitit", phase=number, job=id, chain=chain)
    return jobs


def run_phase(
    python: str,
    spec: RunSpec,
    phase: int,
    environ: Mapping[str, str],
    log: Path,
    job: str,
    watch: Callable[[], None],
) -> int:
    """Run one phase on this machine by submitit's local executor, as `bertjobs.launch.local.run_phase` does by itself.

    ``log`` is that of attempt 0. USR2 to the task's process, the child of the one that submitit's files are named
    after, ends the attempt with a checkpoint, and submitit starts the next.
    """
    folder = submitit_folder(RunDirectory(Path(spec.results) / spec.run))
    executor = LocalExecutor(folder, max_num_timeout=spec.restarts_time_limit, python=quote(python))
    executor.update_parameters(timeout_min=NO_TIME_LIMIT_MIN)
    todo = LocalPhaseJob(spec, phase, log.parent, job, environ.get("CUDA_VISIBLE_DEVICES"), os.getpid())
    with process_environment(environ), unheard(signal.SIGINT):
        handle = executor.submit(todo)
    while True:
        try:
            if handle.done():
                break
            watch()
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            os.kill(int(handle.job_id), signal.SIGTERM)  # the controller passes it on
    try:
        return handle.result()
    except UncompletedJobError:
        return EXIT_FAILURE


def submitit_folder(directory: RunDirectory) -> Path:
    """Where submitit keeps its own files of a run; made if need be, readable by its owner alone."""
    folder = directory.root / "submitit"
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return folder


def worker_settings(spec: RunSpec, phase: int, chain: str) -> dict[str, str]:
    """The worker's environment beside the task's own; the rest it reads from the run's lockfile."""
    settings = {"RUN": spec.run, "RECIPE": spec.recipe, "RESULTS": spec.results, "PHASE": str(phase)}
    settings |= {"BERTJOBS_CHAIN": chain} if chain else {}
    return settings | ({"STEPS_THIS_RUN": str(spec.steps_this_run)} if spec.steps_this_run else {})


def srun_line(spec: RunSpec, phase: int, options: SlurmOptions) -> str:
    """The start of the command that runs submitit on each task, for a shell.

    submitit's own srun line would write a file for each rank, and unbuffered, which breaks lines.
    """
    words = ["srun", "--export=ALL", f"--ntasks-per-node={spec.tasks_per_node}", "--kill-on-bad-exit=1", "--wait=60"]
    words += ["--label", "--open-mode=append", *_container(spec, options)]
    if spec.gpus:
        words.append("--cpu-bind=none")  # each rank takes the CPUs near its GPU by itself
    log = quote(f"{_logs(spec, phase)}/") + '"$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}.out"'
    python = "python3" if spec.image else sys.executable
    return f'{shell_line(words)} --cpus-per-task="$cpus" --output={log} {quote(python)}'


def _container(spec: RunSpec, options: SlurmOptions) -> list[str]:
    """pyxis's options for srun, as in run.sub."""
    if not spec.image:
        return []
    here = Path.cwd()
    read_only = [f"{path}:{path}:ro" for path in (spec.data, spec.init_checkpoint) if path]
    mounts = [f"{here}:{here}", f"{spec.results}:{spec.results}", *read_only, *spec.mounts]
    return [
        f"--container-image={spec.image}",
        f"--container-mounts={','.join(mounts)}",
        f"--container-workdir={here}",
        "--no-container-mount-home",
        f"--container-env={','.join((*PASSED, *options.environment))}",
    ]


def _logs(spec: RunSpec, phase: int) -> Path:
    return RunDirectory(Path(spec.results) / spec.run).phase(phase).logs


def job_parameters(
    spec: RunSpec, phase: int, options: SlurmOptions, after: Sequence[str], limit_s: float | None
) -> dict[str, Any]:
    """A phase's parameters for submitit's Slurm executor.

    Raises:
        InputError: the time limit is unknown; an option is not in sbatch's long form.
    """
    further: dict[str, Any] = {name.replace("-", "_"): value for name, value in options.parameters().items()}
    if "time" in further:
        limit_s = _limit_s(str(further["time"]))
    if limit_s is None:
        raise InputError(
            "the job's time limit is unknown: submitit counts timeouts by it",
            where="backend submitit",
            hint="give it with --time",
        )
    limit_min = minutes(limit_s)
    further.setdefault("time", "infinite" if math.isinf(limit_min) else limit_min)
    parameters: dict[str, Any] = {
        "job_name": f"{spec.run}-phase{phase}",
        "nodes": spec.nodes,
        "ntasks_per_node": spec.tasks_per_node,
        "time": limit_min,
        "signal_delay_s": round(SIGNAL_LEAD_S),
        "stderr_to_stdout": True,
        "wckey": None,
        "setup": SETUP.splitlines(),
        "use_srun": False,
        "additional_parameters": {"output": f"{_logs(spec, phase)}/slurm-%j.out", "requeue": True, **further},
    }
    if after:
        parameters["dependency"] = f"afterany:{':'.join(after)}"
    if spec.gpus:
        parameters["gpus_per_node"] = spec.gpus
    if spec.gpus and spec.gpus == spec.system.gpus_per_node:
        parameters |= {"exclusive": True, "mem": 0}  # all GPUs of a node: its CPUs and memory too
    if spec.image and not spec.steps_this_run:
        parameters["teardown"] = TEARDOWN.splitlines()
    return parameters


def _limit_s(time: str) -> float:
    try:
        return parse_limit_s(time)
    except ValueError as error:
        raise InputError(str(error), where="--time") from error


@contextmanager
def unheard(number: signal.Signals) -> Iterator[None]:
    """Ignore a signal; what is started meanwhile ignores it for ever. At ctrl-C submitit would kill the ranks."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
