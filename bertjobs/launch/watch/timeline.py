"""A run's jobs and attempts in chronological order, from the journal's story and Slurm's answer. Pure.

The links of a chain are interchangeable: a job that was queued for phase 2, or as a spare, may train phase 1. So what a
job did is read from what it began and ended, not from what it was queued for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bertjobs.run.causes import Cause, cause_of_state
from bertjobs.run.journal import Attempt, JobStory, Story
from bertjobs.slurm.jobs import RUNNING, SUSPENDED, WAITING, Job, JobReport, JobStart, unix_s
from bertjobs.slurm.reasons import reason_words

ACTIVE = (*RUNNING, *WAITING)
ERROR_WIDTH = 100

STATES = {
    "BOOT_FAIL": "a node did not boot",
    "DEADLINE": "its deadline passed",
    "FAILED": "failed",
    "COMPLETED": "ended",
    "STOPPED": "stopped with a checkpoint",
}
"""A job's states in plain words, if these differ from `Cause.plain` or the state means no cause."""
NO_TRACE = "ended; nothing says why"
SUSPENDED_WORDS = "suspended by Slurm"


@dataclass(frozen=True)
class TimelineEntry:
    """A line of the timeline: one attempt of a job at one phase, or a job without an attempt yet.

    Attributes:
        job, link: its id, and what it was queued as: "phase 1", "spare", or "by hand".
        phase: the one that it trained; if it has not begun, the one that it was queued for.
        attempt: how often the job had been requeued; None while it waits for its first start.
        nodes: names as Slurm writes them, or how many, or "".
        state: "waiting", "starting" (it has its nodes, the worker has not started), "running" or "ended".
        started_unix_s, ended_unix_s: None if it has not, or if nothing says when.
        first_step, last_step: optimizer steps that it made; None for none.
        words: why it ended or waits, in plain words.
        is_done: whether it finished its phase.
    """

    job: str
    link: str
    phase: int
    attempt: int | None = None
    nodes: str = ""
    state: str = "ended"
    started_unix_s: float | None = None
    ended_unix_s: float | None = None
    first_step: int | None = None
    last_step: int | None = None
    words: str = ""
    is_done: bool = False


@dataclass(frozen=True)
class Link:
    """One job of a run.

    Attributes:
        phase: the one that it was queued for; for a job queued by hand, the first that it began.
        submitted, spare: whether bertjobs queued it, and whether as a spare that takes over.
        state: Slurm's, or the journal's: COMPLETED, STOPPED, FAILED, RUNNING, UNKNOWN.
        source: of the state: "sacct", "squeue" or "run directory".
        reason: why it waits, in Slurm's word.
        nodes: of its newest start, as Slurm writes them.
        start_unix_s: of its newest start, or when Slurm expects it.
        pid, host, study: of the launcher of a local job, and whose runs that trains; 0 and "" for others.
        cancelled: whether ``bertjobs cancel`` stopped it.
        entries: what it did, oldest first.
    """

    job: str
    backend: str
    phase: int
    submitted: bool = True
    spare: bool = False
    state: str = "UNKNOWN"
    source: str = "run directory"
    reason: str = ""
    nodes: str = ""
    start_unix_s: float | None = None
    pid: int = 0
    host: str = ""
    study: str = ""
    cancelled: bool = False
    entries: tuple[TimelineEntry, ...] = ()

    @property
    def is_active(self) -> bool:
        """Whether it is queued or running."""
        return self.state in ACTIVE

    @property
    def name(self) -> str:
        """What it was queued as: "phase 1", "spare" or "by hand"."""
        return "by hand" if not self.submitted else "spare" if self.spare else f"phase {self.phase}"

    @property
    def waits(self) -> str:
        """Why it waits, in plain words."""
        return reason_words(self.reason)

    @property
    def works_on(self) -> int | None:
        """The phase that it trains, or trained when it was stopped; None if it has begun none since its start."""
        begun = [entry for entry in self.entries if entry.state in ("running", "ended")]
        return begun[-1].phase if begun else None


def state_words(state: str, default: str = NO_TRACE) -> str:
    """A job's state, from Slurm or its run directory, in plain words; ``default`` for one that explains nothing."""
    if state in STATES:
        return STATES[state]
    cause = cause_of_state(state)
    return cause.plain if cause else default


def timeline(
    story: Story,
    answer: JobReport,
    own: Mapping[str, str],
    metrics: Mapping[int, Sequence[Mapping[str, Any]]],
    ranks_per_node: float,
    undone: Sequence[int],
) -> tuple[Link, ...]:
    """The links of a run, in the order in which the journal first names them.

    Args:
        story: what the journal says.
        answer: what Slurm says about them.
        own: by job, its state according to the run directory alone.
        metrics: by phase, lines of metrics.jsonl.
        ranks_per_node: of the run, the mean over its nodes, to count nodes by.
        undone: phases that are not done, in order. A link that has just started trains the first of them.
    """
    links = [_link(job, answer, own, metrics, story, ranks_per_node) for job in story.jobs.values()]
    return tuple(
        replace(link, entries=_with_present(link, answer.starts.get(link.job, ()), undone[0] if undone else link.phase))
        for link in links
    )


def _link(
    job: JobStory,
    answer: JobReport,
    own: Mapping[str, str],
    metrics: Mapping[int, Sequence[Mapping[str, Any]]],
    story: Story,
    ranks_per_node: float,
) -> Link:
    known = answer.jobs.get(job.id) or Job(job.id, job.backend, state=own.get(job.id, "UNKNOWN"))
    starts = answer.starts.get(job.id, ())
    link = Link(
        job=job.id,
        backend=job.backend,
        phase=job.phase,
        submitted=job.is_submitted,
        spare=job.is_spare,
        state=known.state,
        source=known.source,
        reason=known.reason if known.state in WAITING else "",
        nodes=",".join(known.nodes),
        start_unix_s=unix_s(known.start),
        pid=job.pid,
        host=job.host,
        study=job.study,
        cancelled=job.is_cancelled,
    )
    attempts = [_entry(link, attempt, starts, metrics, story, ranks_per_node) for attempt in job.attempts]
    attempts += _not_begun(link, attempts, starts)
    attempts.sort(key=lambda entry: (entry.attempt or 0, entry.started_unix_s or 0.0))
    return replace(link, entries=tuple(attempts))


def _entry(
    link: Link,
    attempt: Attempt,
    job_starts: Sequence[JobStart],
    metrics: Mapping[int, Sequence[Mapping[str, Any]]],
    story: Story,
    ranks_per_node: float,
) -> TimelineEntry:
    """One attempt at one phase; it is over if it has an end or Slurm has started the job again since."""
    number, ranks = attempt.number, attempt.world_size
    job_start = job_starts[number] if number < len(job_starts) else JobStart("")
    first, last = _steps(attempt, metrics.get(attempt.phase, ()), story)
    began, ended = attempt.started_unix_s, attempt.ended_unix_s
    return TimelineEntry(
        job=link.job,
        link=link.name,
        phase=attempt.phase,
        attempt=number,
        nodes=job_start.nodes or (f"{max(1, round(ranks / ranks_per_node))}" if ranks else ""),
        state="ended" if attempt.has_ended or number + 1 < len(job_starts) else "running",
        started_unix_s=job_start.began_unix_s if began is None else began,
        ended_unix_s=job_start.ended_unix_s if ended is None else ended,
        first_step=first,
        last_step=last,
        words=end_words(attempt, job_start.state, link) if attempt.has_ended else state_words(job_start.state),
        is_done=attempt.cause is Cause.DONE,
    )


def _steps(attempt: Attempt, lines: Sequence[Mapping[str, Any]], story: Story) -> tuple[int | None, int | None]:
    """The first and last step of one attempt, without those that a later attempt repeated."""
    began, before = attempt.started_unix_s, attempt.first_step
    if began is None:
        return None, None
    starts = sorted((other.started_unix_s, other.first_step) for other in story.begun
                    if other.phase == attempt.phase and other.started_unix_s)  # fmt: skip
    later = next((start for start in starts if start[0] > began), None)
    last = attempt.step
    if last is None:
        until = later[0] if later else float("inf")
        made = (line["step"] for line in lines if began <= line["time_unix_s"] < until)
        last = max(made, default=later[1] if later else before)
    if later:
        last = min(last, later[1])
    return (before + 1, last) if last > before else (None, None)


def end_words(attempt: Attempt, state: str, link: Link) -> str:
    """Why an attempt ended, in plain words.

    Args:
        attempt: as the journal has it.
        state: what sacct says about this start; "" if it says nothing.
        link: its job.
    """
    if attempt.cause is Cause.SIGTERM:
        return f"{_sender(attempt, state, link)}: {Cause.SIGTERM.plain}"
    words = attempt.cause.plain if attempt.cause else attempt.word or NO_TRACE
    text = f"{words}: {attempt.failure.what}" if attempt.failure else words
    return text if len(text) <= ERROR_WIDTH else text[: ERROR_WIDTH - 3] + "..."


def _sender(attempt: Attempt, state: str, link: Link) -> str:
    """Who sent the TERM that ended an attempt, as far as is known."""
    by_slurm = cause_of_state(state)
    if link.cancelled:
        return Cause.CANCELLED.plain
    if attempt.explained:
        return attempt.explained.plain
    if by_slurm in (Cause.CANCELLED, Cause.PREEMPTED, Cause.REQUEUED):
        return by_slurm.plain
    return "interrupted" if link.backend == "local" else "preempted, or cancelled"


def _not_begun(link: Link, attempts: Sequence[TimelineEntry], job_starts: Sequence[JobStart]) -> list[TimelineEntry]:
    """Starts that Slurm has and the journal has not, except the present one: the worker never started."""
    numbers = {entry.attempt for entry in attempts}
    return [
        TimelineEntry(
            job=link.job,
            link=link.name,
            phase=link.phase,
            attempt=number,
            nodes=start.nodes,
            started_unix_s=start.began_unix_s,
            ended_unix_s=start.ended_unix_s,
            words=f"before training: {state_words(start.state, start.state)}",
        )
        for number, start in enumerate(job_starts)
        if number not in numbers and start.began_unix_s and not (link.is_active and number + 1 == len(job_starts))
    ]


def _with_present(link: Link, job_starts: Sequence[JobStart], next_phase: int) -> tuple[TimelineEntry, ...]:
    """The attempts of a job, closed if it no longer runs; and after them, what it does now."""
    attempts = link.entries
    last = attempts[-1] if attempts else None
    if last and last.state == "running" and link.state in RUNNING:
        says = SUSPENDED_WORDS if link.state == SUSPENDED else ""
        return (*(_closed(entry, link) for entry in attempts[:-1]), replace(last, words=says))
    closed = tuple(_closed(entry, link) for entry in attempts)
    newest = max(len(job_starts) - 1, 0 if last is None or last.attempt is None else last.attempt)
    present = TimelineEntry(link.job, link.name, last.phase if last else link.phase)
    if link.state in WAITING:
        number = newest + (last is not None and newest == last.attempt)
        return (*closed, replace(present, attempt=number if last else None, state="waiting", words=link.waits))
    if link.state in ("RUNNING", "CONFIGURING") and link.backend != "local":
        began = link.start_unix_s
        if last and last.attempt == newest:
            if began and last.ended_unix_s and began >= last.ended_unix_s:
                newest += 1  # sacct has not recorded its end yet
            elif not last.is_done:  # after which the same attempt continues with the next phase
                return closed
        words = (link.job, link.name, next_phase, newest, link.nodes, "starting")
        return (*closed, TimelineEntry(*words, started_unix_s=began))
    never = f"never started: {state_words(link.state, link.state.lower())}"
    return closed or (replace(present, words=never),)


def _closed(entry: TimelineEntry, link: Link) -> TimelineEntry:
    """An attempt that is over; if the journal does not record its end, the job's state says why."""
    if entry.state != "running":
        return entry
    words = state_words(link.state) if entry.words == NO_TRACE else entry.words
    return replace(entry, state="ended", words=words)


def link_of(phase: int, links: Sequence[Link], undone: Sequence[int]) -> Link | None:
    """The job that represents a phase that is not done.

    The job that last began it, if it is queued or running; else the active job that will train it; else the job that
    began it last, or was queued for it last. None if no job was ever to train it.

    Args:
        links: of the run.
        undone: phases that are not done, in order. An idle link trains the first of them.
    """
    began = _last_to_begin(phase, links)
    if began and began.is_active:
        return began
    free = [link for link in links if link.is_active and _is_free(link, undone)]
    if phase == undone[0]:
        ordered = sorted(free, key=lambda link: (link.state not in RUNNING, link.phase != phase, link.spare))
    else:
        taken = link_of(undone[0], links, undone)
        ordered = [link for link in free if link.phase == phase and not link.spare and link is not taken]
    queued = [link for link in links if link.phase == phase and not link.is_active]  # active ones train other phases
    return next(iter(ordered), None) or began or (queued[-1] if queued else None)


def _is_free(link: Link, undone: Sequence[int]) -> bool:
    return link.works_on is None or link.works_on not in undone or link.state in WAITING


def _last_to_begin(phase: int, links: Sequence[Link]) -> Link | None:
    newest, last = -1.0, None
    for link in links:
        for entry in link.entries:
            began = entry.attempt is not None and entry.state in ("running", "ended") and entry.phase == phase
            if began and (entry.started_unix_s or entry.ended_unix_s or 0.0) >= newest:
                newest, last = entry.started_unix_s or entry.ended_unix_s or 0.0, link
    return last
