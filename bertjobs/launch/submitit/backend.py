"""The backend ``submitit``: each phase is a job of submitit's, for sites whose tools read its files.

Its batch script ends in ``exec bash run.sub``, the phase's own script, which has each task run submitit's loader
instead of the worker. So port, container, log, journal and what comes next are those of every other job.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor, SlurmJob
from submitit.core.utils import UncompletedJobError

from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import PRIVATE_FOLDER, write_text
from bertjobs.launch.script import SlurmOptions, submissions
from bertjobs.launch.submitit.job import RankJob
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.client import NO_CONTROLLER
from bertjobs.slurm.environment import clean_environment
from bertjobs.slurm.process_environment import process_environment
from bertjobs.slurm.shell import quote
from bertjobs.slurm.times import SIGNAL_LEAD_S, parse_time


def queue_submitit(
    directory: RunDirectory,
    spec: RunSpec,
    options: SlurmOptions,
    *,
    environ: Mapping[str, str],
    after: Sequence[str] = (),
    chain: str = "",
    limit_s: float | None = None,
    python: str = sys.executable,
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
        InputError: sbatch refused; or the time limit is unknown, which submitit writes into its files.
        BertjobsError: Slurm's controller gave no answer.
    """
    folder = submitit_folder(directory)
    before = set(folder.iterdir())
    jobs: dict[int, SlurmJob] = {}
    with process_environment(clean_environment(environ)):
        try:
            for submission in submissions(spec, options, python, chain=chain, after=after):
                write_text(submission.path, submission.script)
                behind = [job.job_id for job in jobs.values()][-1:] or after
                executor = SlurmExecutor(folder, python=f"exec bash {quote(str(submission.path))}")
                executor.update_parameters(**job_parameters(spec, submission.phase, options, behind, limit_s))
                jobs[submission.phase] = _submit(executor, RankJob())
        except BaseException:
            for job in jobs.values():
                job.cancel(check=False)
            for file in set(folder.iterdir()) - before:
                file.unlink()
            raise
    ids = {number: str(job.job_id) for number, job in jobs.items()}
    for number, id in ids.items():
        directory.record("submitted", backend="submitit", phase=number, job=id, chain=chain)
    return ids


def submitit_folder(directory: RunDirectory) -> Path:
    """Where submitit keeps its own files of a run; made if need be, readable by its owner alone."""
    folder = directory.root / "submitit"
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return folder


def _submit(executor: SlurmExecutor, job: RankJob) -> Any:
    """Queue a job; returns submitit's handle of it."""
    try:
        return executor.submit(job)
    except UncompletedJobError as error:  # submitit's name for a command that failed, here sbatch
        said = str(error).strip() or "no reason given"
        if any(sign in said for sign in NO_CONTROLLER):
            hint = "nothing was queued; see `scontrol ping`, or train on this machine with --backend local"
            raise BertjobsError(f"sbatch found no cluster: {said}", hint=hint) from error
        raise InputError(
            f"sbatch refused: {said}",
            hint="nothing was queued; give what the cluster asks for by --partition, --account, --time or --sbatch",
        ) from error


def job_parameters(
    spec: RunSpec, phase: int, options: SlurmOptions, after: Sequence[str], limit_s: float | None
) -> dict[str, Any]:
    """A phase's parameters for submitit's Slurm executor.

    Raises:
        InputError: the time limit is unknown; an option is not in sbatch's long form.
    """
    further: dict[str, Any] = dict(_pair(line) for line in options.lines())
    if "time" in further:
        limit_s = _limit_s(str(further["time"]))
    if limit_s is None:
        raise InputError(
            "the job's time limit is unknown: submitit needs it",
            where="backend submitit",
            hint="give it with --time",
        )
    minutes = math.inf if math.isinf(limit_s) else math.ceil(limit_s / 60)
    further.setdefault("time", "infinite" if math.isinf(minutes) else minutes)
    logs = RunDirectory(Path(spec.results) / spec.run).phase(phase).logs
    parameters: dict[str, Any] = {
        "job_name": f"{spec.run}-phase{phase}",
        "nodes": spec.nodes,
        "ntasks_per_node": spec.tasks_per_node,
        "time": minutes,
        "signal_delay_s": round(SIGNAL_LEAD_S),
        "stderr_to_stdout": True,
        "wckey": None,
        "use_srun": False,
        "additional_parameters": {"output": f"{logs}/slurm-%j.out", "requeue": True, **further},
    }
    if after:
        parameters["dependency"] = f"afterany:{':'.join(after)}"
    if spec.gpus:
        parameters["gpus_per_node"] = spec.gpus
    if spec.gpus and spec.gpus == spec.system.gpus_per_node:
        parameters |= {"exclusive": True, "mem": 0}  # all GPUs of a node: its CPUs and memory too
    return parameters


def _limit_s(time: str) -> float:
    try:
        seconds = parse_time(time)
    except ValueError as error:
        raise InputError(str(error), where="--time") from error
    return math.inf if seconds is None else seconds


def _pair(line: str) -> tuple[str, str | bool]:
    """``--key=value`` or ``--key`` as submitit writes them."""
    name, equals, value = line.removeprefix("--").partition("=")
    if not line.startswith("--") or " " in name:
        raise InputError(f"{line!r} is not in the form --key=value, which submitit needs", where="--sbatch")
    return name.replace("-", "_"), value if equals else True
