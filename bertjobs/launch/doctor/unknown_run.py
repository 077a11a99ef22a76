"""The verdict on a run without a run.yml (its job ended before it wrote one), or with one that cannot be read. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bertjobs.launch.doctor.evidence import AttemptEvidence, UnknownRun
from bertjobs.launch.doctor.log_errors import LogError, error_lines, short
from bertjobs.launch.doctor.remedies import last_lines
from bertjobs.launch.doctor.verdict import Standing, Verdict
from bertjobs.run.causes import Cause
from bertjobs.slurm.jobs import RUNNING, WAITING
from bertjobs.slurm.reasons import job_line


def unknown_run(run: UnknownRun) -> Verdict:
    """What can be said of it: the error of its last attempt is in the logs even so."""
    jobs = [job for phase in run.phases for job in phase.jobs]
    attempts = [attempt for phase in run.phases for attempt in phase.attempts]
    lines = (*run.damage, *map(job_line, jobs[-1:]))
    logs = f"bertjobs logs {run.target}"
    if run.has_settings:
        sentence = f"{run.damage[0]}; restore it from a copy, or start another run of the recipe"
        return Verdict(Standing.UNREADABLE, sentence, lines, f"bertjobs submit --recipe NAME --run {run.folder.name}-2")
    if active := next((job for job in jobs if job.state in (*RUNNING, *WAITING)), None):
        sentence = f"job {active.id} has written no run.yml yet: the worker has not begun"
        return Verdict(Standing.RUNNING if active.state in RUNNING else Standing.QUEUED, sentence, lines, logs)
    newest = max(attempts, key=lambda attempt: attempt.began_unix_s, default=None)
    if newest is None:
        return Verdict(Standing.NOT_STARTED, "no attempt has left a log or a run.yml", lines, logs)
    error = _telling(newest.errors)
    evidence = (*error_lines(error), *lines, *(() if error else last_lines(newest)))
    return Verdict(_cause(error), _sentence(newest, error), evidence, logs)


def _telling(errors: Sequence[LogError]) -> LogError | None:
    """The error that says most: the first that a rank printed, else the first with a cause, else any."""
    of_ranks = (error for error in errors if error.rank is not None and error.cause is not Cause.LOST_RANK)
    with_cause = (error for error in errors if error.cause is not None)
    return next(of_ranks, None) or next(with_cause, None) or next(iter(errors), None)


def _sentence(attempt: AttemptEvidence, error: LogError | None) -> str:
    before = f"job {attempt.job} (attempt {attempt.number}) ended before it wrote run.yml"
    if error is None:
        return f"{before}; the last lines of its log may say why"
    last = error.lines[-1] if error.lines[0].startswith("Traceback") else error.lines[0]
    return f"{before}: {short(last.strip().removeprefix('error: '))}"


def _cause(error: LogError | None) -> Cause | Standing:
    if error is None:
        return Standing.UNKNOWN
    return error.cause or (Cause.BAD_INPUT if error.lines[0].startswith("error: ") else Cause.CRASHED)
