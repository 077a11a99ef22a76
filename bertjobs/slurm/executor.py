"""submitit's executors, which start sbatch themselves: each job is a pickled call of a function or object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import UncompletedJobError

from bertjobs.slurm.environment import process_environment
from bertjobs.slurm.refusals import RUN_HINTS, Hints, refusal


@contextmanager
def _submitting(environ: Mapping[str, str], hints: Hints) -> Iterator[None]:
    """Have submitit call sbatch with ``environ``; what sbatch does not accept is raised as `refusal` words it."""
    with process_environment(environ):
        try:
            yield
        except UncompletedJobError as error:  # submitit's name for a command that failed, here sbatch
            raise refusal(str(error), hints) from error


def submit_call(
    call: Callable[[], Any],
    folder: Path,
    environ: Mapping[str, str],
    parameters: Mapping[str, Any],
    *,
    python: str,
) -> str:
    """Queue a job that calls ``call``; returns its id.

    Args:
        folder: for submitit's own files.
        environ: the environment of sbatch and of the job.
        parameters: of submitit's Slurm executor.
        python: start of the shell command that runs submitit in the job.

    Raises:
        InputError: sbatch refused; its own words are shown.
        NoAnswer: Slurm's controller gave no answer.
    """
    with _submitting(environ, RUN_HINTS):
        executor = SlurmExecutor(folder, python=python)
        executor.update_parameters(**parameters)
        return str(executor.submit(call).job_id)


def submit_array(
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    folder: Path,
    environ: Mapping[str, str],
    parameters: Mapping[str, Any],
    *,
    name: str,
    hints: Hints,
    python: str | None = None,
) -> list[str]:
    """Queue ``function(*call)`` for each call, as one array of jobs called ``name``; returns the elements' ids.

    Args:
        folder: for submitit's own files.
        environ: the environment of sbatch and of the jobs.
        parameters: options of sbatch by name, True for one without a value.
        python: start of the shell command that runs submitit in the jobs; None: this interpreter.

    Raises:
        InputError: sbatch refused; its own words are shown.
        NotNow: Slurm's controller gave no answer, or the user has too many jobs.
    """
    with _submitting(environ, hints):
        executor = SlurmExecutor(folder, max_num_timeout=0, python=python)
        executor.update_parameters(
            job_name=name, time=None, wckey=None, use_srun=False, stderr_to_stdout=True,
            array_parallelism=len(calls), additional_parameters=dict(parameters),
        )  # fmt: skip
        return [job.job_id for job in executor.map_array(function, *zip(*calls, strict=True))]
