"""The backend ``submitit``: each phase is a job of submitit's, for sites whose tools read its files.

Its batch script ends in ``exec bash run.sub``, the phase's own script, which has each task run submitit's loader
instead of the worker. So port, container, log, journal and what comes next are the same as for every other job.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import PRIVATE_FOLDER, write_text
from bertjobs.launch.script import submissions
from bertjobs.launch.submitit.job import RankJob
from bertjobs.launch.unanswered import queued_without_answer
from bertjobs.recipe.groups import gpus_asked, only_component
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.run.own_job import SIGNAL_LEAD_S
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.environment import clean_environment
from bertjobs.slurm.executor import submit_call
from bertjobs.slurm.options import SlurmOptions, file_name
from bertjobs.slurm.refusals import NoAnswer
from bertjobs.slurm.shell import quote
from bertjobs.slurm.times import limit_s as parse_limit_s
from bertjobs.slurm.times import minutes


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
    """Queue a job for each phase, each waiting for the end of the one before, the first for those of ``after``.

    All or nothing: if sbatch refuses one, those queued before it are cancelled.

    Args:
        directory: the run's folder; submitit keeps its own files in ``submitit/`` below it.
        spec: its paths must be absolute.
        environ: of the jobs, less what `clean_environment` removes.
        chain: name of this submission.
        limit_s: the jobs' time limit in seconds if ``options`` give none; infinite for no limit.

    Returns:
        Phase -> job id.

    Raises:
        InputError: sbatch refused; or the time limit, which submitit writes into its files, is unknown.
        NoAnswer: Slurm's controller gave no answer, and nothing was queued.
        UnansweredError: nobody knows whether something was queued.
    """
    folder = submitit_folder(directory)
    before = set(folder.iterdir())
    environment = clean_environment(environ)
    jobs: dict[int, str] = {}
    try:
        for submission in submissions(spec, options, python, chain=chain, after=after):
            write_text(submission.path, submission.script)
            awaited = list(jobs.values())[-1:] or after
            parameters = job_parameters(spec, submission.phase, options, awaited, limit_s)
            command = f"exec bash {quote(str(submission.path))}"
            try:
                jobs[submission.phase] = submit_call(RankJob(), folder, environment, parameters, python=command)
            except NoAnswer as error:
                # Without its id submitit has not given the job its files: it could only fail.
                if lost := queued_without_answer(error, directory, Slurm(environment), jobs.values()):
                    Slurm(environment).cancel(lost)
                raise
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


def submitit_folder(directory: RunDirectory) -> Path:
    """Where submitit keeps its own files of a run; made if necessary, readable by its owner alone."""
    folder = directory.root / "submitit"
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return folder


def job_parameters(
    spec: RunSpec, phase: int, options: SlurmOptions, after: Sequence[str], limit_s: float | None
) -> dict[str, Any]:
    """A phase's parameters for submitit's Slurm executor.

    Raises:
        InputError: the time limit is unknown; an option is not in sbatch's long form; the nodes are not one component
            of a job.
    """
    nodes = only_component(spec.node_groups, "submitit makes no", "--backend slurm")
    options = options.on_nodes(nodes.partition, nodes.constraint)
    further: dict[str, Any] = {name.replace("-", "_"): value for name, value in options.parameters().items()}
    if "time" in further:
        limit_s = _limit_s(str(further["time"]))
    if limit_s is None:
        raise InputError(
            "the job's time limit is unknown: submitit needs it",
            where="backend submitit",
            hint="give it with --time",
        )
    limit_min = minutes(limit_s)
    further.setdefault("time", "infinite" if math.isinf(limit_min) else limit_min)
    logs = RunDirectory(Path(spec.results) / spec.run).phase(phase).logs
    parameters: dict[str, Any] = {
        "job_name": f"{spec.run}-phase{phase}",
        "nodes": spec.nodes,
        "ntasks_per_node": spec.tasks_per_node,
        "time": limit_min,
        "signal_delay_s": round(SIGNAL_LEAD_S),
        "stderr_to_stdout": True,
        "wckey": None,
        "use_srun": False,
        "additional_parameters": {"output": f"{file_name(str(logs))}/slurm-%j.out", "requeue": True, **further},
    }
    if after:
        parameters["dependency"] = f"afterany:{':'.join(after)}"
    if spec.gpus:
        parameters["gpus_per_node"] = gpus_asked(nodes.gpu_type or spec.gpu_type, nodes.tasks_per_node)
    if spec.gpus and nodes.tasks_per_node == spec.system_of(nodes).gpus_per_node:
        parameters |= {"exclusive": True, "mem": 0}  # all GPUs of a node: its CPUs and memory too
    return parameters


def _limit_s(time: str) -> float:
    try:
        return parse_limit_s(time)
    except ValueError as error:
        raise InputError(str(error), where="--time") from error
