"""One verdict on a run: why it does not go on, or that it does; the lines that say so; and the next command to type.

Pure: everything known is in the `Evidence`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE
from bertjobs.launch.doctor.evidence import Attempt, Evidence, PhaseEvidence
from bertjobs.launch.doctor.log_errors import ERROR_LINES, LOST, Cause, Said, cause_of, said_lines
from bertjobs.launch.doctor.remedies import (
    TELL,
    Case,
    Verdict,
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
from bertjobs.slurm.jobs import HELD, NEVER, RUNNING, WAITING, Job
from bertjobs.slurm.options import option_words
from bertjobs.slurm.reasons import job_line, must_be_changed, reason_words
from bertjobs.wording import duration

QUIET_S = 300.0
"""Without a step for so long, and for so many steps' time, a run may hang."""
QUIET_STEPS = 10
STARTING_S = 900.0
"""Until the first step: importing, reading and checking shards, compiling."""
LOOP = 2
"""Preempted attempts without a new checkpoint that make a loop."""

_TASK = re.compile(r"srun: error: (\S+): tasks? ([\d,\- ]+): (.+)")

STATES = {
    "NODE_FAIL": Cause.NODE_FAILURE,
    "BOOT_FAIL": Cause.NODE_FAILURE,
    "OUT_OF_MEMORY": Cause.HOST_MEMORY,
    "TIMEOUT": Cause.TIME_LIMIT,
    "DEADLINE": Cause.TIME_LIMIT,
    "PREEMPTED": Cause.PREEMPTED,
    "CANCELLED": Cause.CANCELLED,
}
JOURNAL = {
    "node failed": Cause.NODE_FAILURE,
    "node failure": Cause.NODE_FAILURE,
    "out of memory": Cause.HOST_MEMORY,
    "out of host memory": Cause.HOST_MEMORY,
    "time limit": Cause.TIME_LIMIT,
    "preempted": Cause.PREEMPTED,
}
"""Causes that the journal has from Slurm."""

STALE = (Cause.TIME_LIMIT, Cause.PREEMPTED)
"""Slurm's words on an earlier start may stand in the log that all starts share: its state must not say otherwise."""

UNTOLD = ("", "UNKNOWN", "REQUEUED")


def diagnose(evidence: Evidence) -> Verdict:
    """The verdict on a run: on the phase that runs, else on the first that is not done."""
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
        return _never(evidence, stuck[0], verdict) if stuck and verdict.cause is Cause.RUNNING else verdict
    if stuck and (waiting or not phase.attempts):
        return _never(evidence, stuck[0], None)
    if waiting:
        return _loop(evidence, phase) or _queued(evidence, phase, waiting)
    if not phase.jobs:
        sentence = f"phase {phase.number} has no job, and is not done"
        return Verdict(Cause.NOT_STARTED, sentence, standing(evidence, phase), f"bertjobs resume {evidence.target}")
    return _loop(evidence, phase) or _ended(evidence, phase)


def _done(evidence: Evidence) -> Verdict:
    phases = [f"phase {phase.number}: DONE.json, step {phase.steps}" for phase in evidence.phases]
    last = evidence.phases[-1]
    where = evidence.folder / f"phase{last.number}" / "checkpoints" / last.checkpoint
    sentence = "all phases are done" if len(phases) > 1 else f"phase {last.number} is done"
    return Verdict(Cause.DONE, sentence, (*phases, f"checkpoint {where}"), f"bertjobs report {evidence.target}")


def _running(evidence: Evidence, phase: PhaseEvidence, job: Job) -> Verdict:
    attempt = newest_attempt(phase, job)
    started = (attempt.started_unix_s or attempt.seen_unix_s) if attempt else None
    moved = max((time for time in (phase.alive_unix_s, started) if time is not None), default=None)
    first = phase.step_unix_s is None or (started is not None and phase.step_unix_s < started)
    if moved is None:
        sentence = f"job {job.id} has its nodes; the worker has not begun yet"
        evidence_lines = (job_line(job), *standing(evidence, phase))
        return Verdict(Cause.RUNNING, sentence, evidence_lines, f"bertjobs logs --follow {evidence.target}")
    age = evidence.now_unix_s - moved
    lines = (*standing(evidence, phase), job_line(job), *last_lines(attempt))
    if age <= _patience(phase, first):
        at = "before its first step" if first else f"at step {phase.step:,} of {phase.steps:,}"
        sentence = f"phase {phase.number} trains, {at}; {duration(age)} since it last moved"
        return Verdict(Cause.RUNNING, sentence, lines, f"bertjobs status {evidence.target}")
    timeout = evidence.spec.hang_timeout_s
    before = f"; a step took {phase.step_time_s:.3g} s" if phase.step_time_s else ""
    sentence = f"job {job.id} runs, but phase {phase.number} made no step for {duration(age)}{before}"
    if timeout and age < timeout:
        lines += (f"the watchdog ends a run that stands still for {duration(timeout)} (hang_timeout_s)",)
        return Verdict(Cause.STALLED, sentence, lines, f"bertjobs logs --follow {evidence.target}")
    return Verdict(Cause.STALLED, sentence, lines, again(evidence))


def _patience(phase: PhaseEvidence, first: bool) -> float:
    """Seconds without a step that are nothing unusual."""
    return STARTING_S if first else max(QUIET_S, QUIET_STEPS * (phase.step_time_s or 0.0))


def _never(evidence: Evidence, job: Job, running: Verdict | None) -> Verdict:
    sentence = f"job {job.id} can never start: {reason_words(job.reason)}"
    lines: tuple[str, ...] = (job_line(job),)
    if running is not None:
        lines += (f"meanwhile {running.sentence}",)
        return Verdict(Cause.DEPENDENCY, sentence, lines, f"scancel {job.id}")
    return Verdict(Cause.DEPENDENCY, sentence, lines, again(evidence))


def _queued(evidence: Evidence, phase: PhaseEvidence, waiting: Sequence[Job]) -> Verdict:
    job = next((job for job in waiting if job.reason != "Dependency"), waiting[0])
    sentence = f"job {job.id} of phase {phase.number} waits: {reason_words(job.reason)}"
    lines = [job_line(job)] + ([f"Slurm expects it to start at {job.start_text}"] if job.start else [])
    lines += standing(evidence, phase)
    if phase.attempts:
        before = _ended(evidence, phase)
        lines.append(f"its last attempt: {before.cause}: {before.sentence}")
    command = f"bertjobs status {evidence.target}"
    if job.reason.strip("()").split(",")[0] in HELD or job.state == "REQUEUE_HOLD":
        command = f"scontrol release {job.id}"
    elif must_be_changed(job.reason):
        command = again(evidence) + (" --time TIME" if "TimeLimit" in job.reason else "")
    return Verdict(Cause.QUEUED, sentence, tuple(lines), command)


def _loop(evidence: Evidence, phase: PhaseEvidence) -> Verdict | None:
    """Attempts that were preempted one after the other before any of them wrote a checkpoint."""
    lost: list[Attempt] = []
    for attempt in reversed(phase.attempts):
        began = attempt.started_unix_s or attempt.seen_unix_s
        if not _was_preempted(evidence, phase, attempt) or phase.checkpoint_unix_s > began:
            break
        lost.insert(0, attempt)
    if len(lost) < LOOP:
        return None
    job = next(job for job in phase.jobs if job.id == lost[-1].job)
    sentence = f"the last {len(lost)} attempts of phase {phase.number} were preempted before a checkpoint was written"
    lines = [f"job {attempt.job}, attempt {attempt.number}: {attempt.cause or 'preempted'}" for attempt in lost]
    lines += [job_line(job), *standing(evidence, phase)]
    command = f"bertjobs cancel {evidence.target} && bertjobs resume {evidence.target} --partition NAME"
    return Verdict(
        Cause.PREEMPTION_LOOP, f"{sentence}; another partition or QOS is not preempted", tuple(lines), command
    )


def _was_preempted(evidence: Evidence, phase: PhaseEvidence, attempt: Attempt) -> bool:
    job = next((job for job in phase.jobs if job.id == attempt.job), None)
    if job is None or job.backend == "local" or job.cancelled:
        return False
    state = Case(evidence, phase, job, attempt).state
    if state in STATES:
        return STATES[state] is Cause.PREEMPTED
    told = any(cause_of(said) is Cause.PREEMPTED for said in attempt.errors)
    return told or attempt.cause in ("SIGTERM", "preempted")


def _ended(evidence: Evidence, phase: PhaseEvidence) -> Verdict:
    """Why a phase's last attempt ended: the first failing rank's own error, else Slurm's word, else the journal's."""
    attempts, refused = list(phase.attempts), []
    while len(attempts) > 1 and (refusal := _refusal(attempts[-1])):
        refused = said_lines(refusal)[:1]
        attempts.pop()
    attempt = attempts[-1] if attempts else None
    last = phase.jobs[-1]
    job = next((job for job in phase.jobs if attempt and job.id == attempt.job), last)
    verdict = _judged(Case(evidence, phase, job, attempt), last)
    return replace(verdict, evidence=(*verdict.evidence, *refused))


def _judged(case: Case, last: Job) -> Verdict:
    """`_ended`, of one attempt; ``last`` is the phase's last job, which may have had none."""
    job, attempt = case.job, case.attempt
    if last.reason.strip("()") == NEVER:
        return _never(case.evidence, last, None)
    if case.state in ("NODE_FAIL", "BOOT_FAIL"):
        return node_failure(case)
    for said in case.errors:
        cause = cause_of(said)
        if cause is Cause.CRASHED and case.is_refusal(said):
            return bad_input(case, said)
        is_stale = cause in STALE and case.state not in UNTOLD and STATES.get(case.state) is not cause
        if cause is not None and not is_stale:
            return TELL[cause](case, said)
    cause = STATES.get(case.state)
    if cause is None and "OUT_OF_MEMORY" in job.steps:
        cause = Cause.HOST_MEMORY
    if cause is None and (job.cancelled or last.cancelled or last.state == "CANCELLED"):
        cause = Cause.CANCELLED
    if cause is None and case.exit_code == EXIT_CONTINUE:
        return _stopped(case)
    cause = cause or (JOURNAL.get(attempt.cause) if attempt else None)
    if cause is not None:
        return TELL[cause](case, None)
    if case.exit_code == EXIT_BAD_INPUT:
        return bad_input(case, None)
    return _killed(case) or _lost_rank(case) or unknown(case)


def _refusal(attempt: Attempt) -> Said | None:
    """What an attempt said that was not begun for the sake of those before."""
    return next((said for said in attempt.errors if re.match(r"error: job \S+ was not restarted", said.text)), None)


def _stopped(case: Case) -> Verdict:
    """The worker stopped by itself and wrote a checkpoint."""
    cause = case.attempt.cause if case.attempt else ""
    if cause == "SIGUSR2":
        return time_limit(case, None)
    if cause == "SIGTERM" and case.job.backend != "local":
        return preempted(case, None)
    sentence = f"{case.where} stopped with a checkpoint{f' ({cause})' if cause else ''}: {case.phase.checkpoint}"
    return case.verdict(Cause.STOPPED, sentence, None, case.resume())


def _killed(case: Case) -> Verdict | None:
    """A task that was killed without a word."""
    for said in case.errors:
        for line in said.lines:
            found = _TASK.match(line)
            if found and "Killed" in found[3]:
                sentence = f"rank {found[2]} on {found[1]} was killed: most often the kernel, for want of host memory"
                return case.verdict(Cause.HOST_MEMORY, sentence, said, case.resume(option_words("--mem=0")))
    if case.exit_code == 137:
        sentence = f"{case.where} was killed (code 137): most often by the kernel, for want of host memory"
        return case.verdict(Cause.HOST_MEMORY, sentence, None, case.resume(option_words("--mem=0")))
    return None


def _lost_rank(case: Case) -> Verdict | None:
    """All that speak say that another rank is gone: those that say nothing went first."""
    lost = [said for said in case.errors if said.text.startswith(LOST)]
    if not lost:
        return None
    spoke = {said.rank for said in lost}
    silent = [rank for rank in range(case.evidence.spec.world_size) if rank not in spoke]
    names = ", ".join(
        f"rank {rank}" + (f" ({case.node_of(rank)})" if case.node_of(rank) else "") for rank in silent[:ERROR_LINES]
    )
    who = f"{names} went first without a word, killed from outside or with its node" if silent else "none says why"
    return case.verdict(Cause.LOST_RANK, f"the ranks lost each other: {who}", lost[0], case.resume())
