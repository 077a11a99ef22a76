"""One verdict on a run: why it stopped, or that it did not; the lines that show it; and the next command to type.

Pure: everything known is in the `Evidence`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE
from bertjobs.launch.doctor.evidence import AttemptEvidence, Evidence, PhaseEvidence, UnknownRun
from bertjobs.launch.doctor.log_errors import LogError, error_lines
from bertjobs.launch.doctor.remedies import (
    TELL,
    Case,
    again,
    bad_input,
    last_lines,
    newest_attempt,
    node_failure,
    preempted,
    standing,
    time_limit,
    unknown,
)
from bertjobs.launch.doctor.unknown_run import unknown_run
from bertjobs.launch.doctor.verdict import Standing, Verdict
from bertjobs.run.causes import Cause, cause_of_state
from bertjobs.slurm.jobs import NEVER, RUNNING, SUSPENDED, WAITING, Job
from bertjobs.slurm.launch_failures import launch_wait
from bertjobs.slurm.options import option_words
from bertjobs.slurm.reasons import job_line, must_be_changed, reason_command, reason_words
from bertjobs.slurm.shell import quote
from bertjobs.wording import duration

QUIET_S = 300.0
"""A run without a step for this long, and for the time of `QUIET_STEPS` steps, may hang."""
QUIET_STEPS = 10
STARTING_S = 900.0
"""Allowed until the first step: importing, reading and checking shards, compiling."""
LOOP = 2
"""How many preempted attempts without a new checkpoint make a loop."""

_TASK = re.compile(r"srun: error: (\S+): tasks? ([\d,\- ]+): (.+)")

STALE = (Cause.TIME_LIMIT, Cause.PREEMPTED)
"""Slurm's messages about an earlier start may be in the log that all starts share: its state must not contradict."""

SILENT = ("", "UNKNOWN", "REQUEUED")
"""States that do not say how an attempt ended."""

VAGUE = (None, Cause.LOST_RANK, Cause.CRASHED)
"""What the journal may have for an end about which Slurm, or a killed task, says more."""


def diagnose(evidence: Evidence | UnknownRun) -> Verdict:
    """The verdict on a run: on the running phase, else on the first that is not done."""
    if isinstance(evidence, UnknownRun):
        return unknown_run(evidence)
    verdict = _verdict(evidence)
    return replace(verdict, evidence=(*verdict.evidence, *evidence.damage))


def _verdict(evidence: Evidence) -> Verdict:
    undone = [phase for phase in evidence.phases if not phase.is_done]
    if not undone:
        return _done(evidence)
    active = (phase for phase in undone if any(job.state in RUNNING for job in phase.jobs))
    phase = next(active, undone[0])
    running = [job for job in phase.jobs if job.state in RUNNING]
    waiting = [job for job in phase.jobs if job.state in WAITING]
    stuck = [job for other in undone for job in other.jobs if job.state in WAITING and job.reason.strip("()") == NEVER]
    if running:
        verdict = _running(evidence, phase, running[0])
        return _never(evidence, stuck[0], verdict) if stuck and verdict.cause is Standing.RUNNING else verdict
    if stuck and (waiting or not phase.attempts):
        return _never(evidence, stuck[0], None)
    if waiting:
        return _loop(evidence, phase) or _queued(evidence, phase, waiting)
    if not phase.jobs:
        sentence = f"phase {phase.number} is not done, and has no job"
        return Verdict(Standing.NOT_STARTED, sentence, standing(evidence, phase), evidence.resume)
    return _loop(evidence, phase) or _ended(evidence, phase)


def _done(evidence: Evidence) -> Verdict:
    phases = [f"phase {phase.number}: DONE.json, step {phase.steps}" for phase in evidence.phases]
    last = evidence.phases[-1]
    folder = evidence.folder / f"phase{last.number}"
    where = folder / "checkpoints" / last.checkpoint
    sentence = "all phases are done" if len(phases) > 1 else f"phase {last.number} is done"
    if last.result_problem:
        sentence += f", but the result is not whole: {last.result_problem}; restore it from a copy, or let the phase "
        sentence += f"begin again from {last.checkpoint or 'its start'}"
        command = f"rm {quote(str(folder / 'DONE.json'))} && {evidence.resume}"
        return Verdict(Standing.RESULT_LOST, sentence, tuple(phases), command)
    return Verdict(Standing.DONE, sentence, (*phases, f"checkpoint {where}"), f"bertjobs report {evidence.target}")


def _running(evidence: Evidence, phase: PhaseEvidence, job: Job) -> Verdict:
    if job.state == SUSPENDED:
        sentence = f"job {job.id} is suspended by Slurm: it keeps its nodes, and continues once it is resumed"
        lines = (job_line(job), *standing(evidence, phase))
        return Verdict(Standing.QUEUED, sentence, lines, f"bertjobs status {evidence.target}")
    attempt = newest_attempt(phase, job)
    started = attempt.began_unix_s if attempt else None
    moved = max((time for time in (phase.alive_unix_s, started) if time is not None), default=None)
    first = phase.step_unix_s is None or (started is not None and phase.step_unix_s < started)
    if moved is None:
        sentence = f"job {job.id} has its nodes; the worker has not started yet"
        evidence_lines = (job_line(job), *standing(evidence, phase))
        return Verdict(Standing.RUNNING, sentence, evidence_lines, f"bertjobs logs --follow {evidence.target}")
    age = evidence.now_unix_s - moved
    lines = (*standing(evidence, phase), job_line(job), *last_lines(attempt))
    if wait := _launch_wait(attempt):
        sentence = f"job {job.id} has its nodes, but {wait}"
        return Verdict(Standing.RUNNING, sentence, lines, f"bertjobs status {evidence.target}")
    if age <= _patience(phase, first):
        at = "before its first step" if first else f"at step {phase.step:,} of {phase.steps:,}"
        sentence = f"phase {phase.number} is training, {at}; last progress {duration(age)} ago"
        return Verdict(Standing.RUNNING, sentence, lines, f"bertjobs status {evidence.target}")
    timeout = evidence.spec.hang_timeout_s
    before = f"; a step took {phase.step_time_s:.3g} s" if phase.step_time_s else ""
    sentence = f"job {job.id} is running, but phase {phase.number} has made no step for {duration(age)}{before}"
    if timeout and age < timeout:
        lines += (f"the watchdog ends a run that makes no step for {duration(timeout)} (hang_timeout_s)",)
        return Verdict(Standing.STALLED, sentence, lines, f"bertjobs logs --follow {evidence.target}")
    return Verdict(Standing.STALLED, sentence, lines, again(evidence))


def _launch_wait(attempt: AttemptEvidence | None) -> str:
    """What a running job waits for before its ranks start; "" if it does not."""
    if attempt is None or attempt.attempt.started_unix_s is not None or not attempt.errors:
        return ""
    return launch_wait(attempt.errors[-1].text)


def _patience(phase: PhaseEvidence, first: bool) -> float:
    """How many seconds without a step are normal."""
    return STARTING_S if first else max(QUIET_S, QUIET_STEPS * (phase.step_time_s or 0.0))


def _never(evidence: Evidence, job: Job, running: Verdict | None) -> Verdict:
    sentence = f"job {job.id} can never start: {reason_words(job.reason)}"
    lines: tuple[str, ...] = (job_line(job),)
    if running is not None:
        lines += (f"meanwhile {running.sentence}",)
        return Verdict(Standing.DEPENDENCY, sentence, lines, f"scancel {job.id}")
    return Verdict(Standing.DEPENDENCY, sentence, lines, again(evidence))


def _queued(evidence: Evidence, phase: PhaseEvidence, waiting: Sequence[Job]) -> Verdict:
    job = next((job for job in waiting if job.reason != "Dependency"), waiting[0])
    sentence = f"job {job.id} of phase {phase.number} waits: {reason_words(job.reason)}"
    lines = [job_line(job)] + ([f"Slurm expects it to start at {job.start_text}"] if job.start else [])
    lines += standing(evidence, phase)
    if phase.attempts:
        before = _ended(evidence, phase)
        lines.append(f"its last attempt: {before.cause}: {before.sentence}")
    command = reason_command(job) or f"bertjobs status {evidence.target}"
    if must_be_changed(job.reason):
        command = again(evidence) + (" --time TIME" if "TimeLimit" in job.reason else "")
    return Verdict(Standing.QUEUED, sentence, tuple(lines), command)


def _loop(evidence: Evidence, phase: PhaseEvidence) -> Verdict | None:
    """The verdict if several attempts in a row were preempted before any of them wrote a checkpoint."""
    lost: list[AttemptEvidence] = []
    for attempt in reversed(phase.attempts):
        if not _was_preempted(evidence, phase, attempt) or phase.checkpoint_unix_s > attempt.began_unix_s:
            break
        lost.insert(0, attempt)
    if len(lost) < LOOP:
        return None
    job = next(job for job in phase.jobs if job.id == lost[-1].job)
    sentence = f"the last {len(lost)} attempts of phase {phase.number} were preempted before a checkpoint was written"
    lines = [f"job {attempt.job}, attempt {attempt.number}: {attempt.cause or Cause.PREEMPTED}" for attempt in lost]
    lines += [job_line(job), *standing(evidence, phase)]
    command = f"bertjobs cancel {evidence.target} && bertjobs resume {evidence.target} --partition NAME"
    return Verdict(
        Standing.PREEMPTION_LOOP, f"{sentence}; another partition or QOS is not preempted", tuple(lines), command
    )


def _was_preempted(evidence: Evidence, phase: PhaseEvidence, attempt: AttemptEvidence) -> bool:
    job = next((job for job in phase.jobs if job.id == attempt.job), None)
    if job is None or job.backend == "local" or job.cancelled:
        return False
    by_slurm = cause_of_state(Case(evidence, phase, job, attempt).state)
    if by_slurm not in (None, Cause.REQUEUED):
        return by_slurm is Cause.PREEMPTED
    is_logged = any(error.cause is Cause.PREEMPTED for error in attempt.errors)
    return is_logged or attempt.cause in (Cause.SIGTERM, Cause.PREEMPTED)


def _ended(evidence: Evidence, phase: PhaseEvidence) -> Verdict:
    """Why a phase's last attempt ended: the first failing rank's own error, else what Slurm says, else the journal.

    Attempts that were not begun because of how those before them ended are left out."""
    attempts, refused = list(phase.attempts), []
    while len(attempts) > 1 and (refusal := attempts[-1].refusal):
        refused = error_lines(refusal)[:1]
        attempts.pop()
    attempt = attempts[-1] if attempts else None
    last = phase.jobs[-1]
    job = next((job for job in phase.jobs if attempt and job.id == attempt.job), last)
    verdict = _judged(Case(evidence, phase, job, attempt), last)
    return replace(verdict, evidence=(*verdict.evidence, *refused))


def _judged(case: Case, last: Job) -> Verdict:
    """`_ended` for one attempt; ``last`` is the phase's last job, which may not have had any."""
    job, attempt = case.job, case.attempt
    by_slurm = cause_of_state(case.state)
    if last.reason.strip("()") == NEVER:
        return _never(case.evidence, last, None)
    if by_slurm is Cause.NODE_FAILURE:
        return node_failure(case)
    for error in case.errors:
        if verdict := _by_error(case, error):
            return verdict
    if by_slurm is Cause.REQUEUED:
        by_slurm = None
    if by_slurm is None and "OUT_OF_MEMORY" in job.steps:
        by_slurm = Cause.HOST_MEMORY
    if by_slurm is None and (job.cancelled or last.cancelled or last.state == "CANCELLED"):
        by_slurm = Cause.CANCELLED
    if by_slurm is None and case.exit_code == EXIT_CONTINUE:
        return _stopped(case)
    by_journal = attempt.cause if attempt else None
    cause = by_slurm or (by_journal if by_journal not in VAGUE else None)
    if cause in TELL:
        return TELL[cause](case, None)
    if case.exit_code == EXIT_BAD_INPUT:
        return bad_input(case, None)
    is_lost = any(error.cause is Cause.LOST_RANK for error in case.errors) or by_journal is Cause.LOST_RANK
    return _killed(case) or (TELL[Cause.LOST_RANK](case, None) if is_lost else unknown(case))


def _by_error(case: Case, error: LogError) -> Verdict | None:
    """What one error shows; None if it is a consequence of another, or does not point to a cause."""
    cause = error.cause
    if cause is Cause.NOT_RESTARTED:  # and nothing is left of the attempts before it
        spent_by = error.spent_by
        return TELL[spent_by](case, error) if spent_by in TELL else bad_input(case, error)
    if cause is Cause.LOST_RANK:
        return None
    if cause is None:
        if error.rank is None:
            return None
        cause = case.attempt.cause if case.attempt else None  # an older log names no causes, its journal does
        if cause in VAGUE:
            cause = Cause.BAD_INPUT if case.is_bad_input(error) else Cause.CRASHED
    if cause in STALE and case.state not in SILENT and cause_of_state(case.state) is not cause:
        return None
    return TELL[cause](case, error) if cause in TELL else None


def _stopped(case: Case) -> Verdict:
    """The worker stopped with a checkpoint."""
    cause = case.attempt.cause if case.attempt else None
    if cause is Cause.SIGUSR2:
        return time_limit(case, None)
    if cause in (Cause.SIGTERM, Cause.PREEMPTED) and case.job.backend != "local":
        return preempted(case, None)
    sentence = f"{case.where} stopped with a checkpoint{f' ({cause})' if cause else ''}: {case.phase.checkpoint}"
    return case.verdict(Standing.STOPPED, sentence, None, case.resume())


def _killed(case: Case) -> Verdict | None:
    """The verdict if a task was killed and left no error message."""
    command = case.resume(option_words("--mem=0"))
    for error in case.errors:
        for line in error.lines:
            task = _TASK.match(line)
            if task and "Killed" in task[3]:
                sentence = f"rank {task[2]} on {task[1]} was killed, most often because its node ran out of memory"
                return case.verdict(Cause.HOST_MEMORY, sentence, error, command)
    if case.exit_code == 137:
        sentence = f"{case.where} was killed (code 137), most often because its node ran out of memory"
        return case.verdict(Cause.HOST_MEMORY, sentence, None, command)
    return None
