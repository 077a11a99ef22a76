"""A run's jobs and attempts in the order of time, from the journal's events and from Slurm's word. Pure.

The links of a chain are interchangeable: a job that was queued for phase 2, or as a spare, may train phase 1. So what a
job has done is read from what it began and ended, not from what it was queued for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bertjobs.slurm.jobs import RUNNING, WAITING, Answer, Job, JobStart, unix_s
from bertjobs.slurm.reasons import reason_words

ACTIVE = (*RUNNING, *WAITING)
ERROR_WIDTH = 100

CAUSES = {
    "SIGUSR2": "time limit near: stopped with a checkpoint",
    "STEPS_THIS_RUN": "made as many steps as it was asked for (STEPS_THIS_RUN)",
    "node failed": "a node failed",
    "node failure": "a node failed",
    "unfit nodes": "the node check found a node unfit",
    "unfit node": "the node check found a node unfit",
    "bad shard": "a shard is missing or altered",
}
"""The journal's causes in plain words, where they are not plain as they are."""

STATES = {
    "NODE_FAIL": "a node failed",
    "BOOT_FAIL": "a node did not boot",
    "PREEMPTED": "preempted",
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "time limit: killed at it",
    "DEADLINE": "its deadline came",
    "CANCELLED": "cancelled",
    "REQUEUED": "requeued",
    "FAILED": "failed",
    "COMPLETED": "ended",
    "STOPPED": "stopped with a checkpoint",
}
"""Slurm's states in plain words, for attempts whose end the journal does not have."""
NO_TRACE = "ended; nothing says why"


@dataclass(frozen=True)
class Entry:
    """A line of the timeline: one attempt of a job at one phase, or a job that has not begun any.

    Attributes:
        job, link: its id, and what it was queued as: "phase 1", "spare", or "by hand".
        phase: that it trained; where it has not begun, that it was queued for.
        attempt: how often the job was requeued before; None while it waits for its first start.
        nodes: names as Slurm writes them, or how many, or "".
        state: "waiting", "starting" (it has its nodes, the worker has not begun), "running" or "ended".
        started_unix_s, ended_unix_s: None where it has not, or where nothing says when.
        first_step, last_step: optimizer steps it made, None for none.
        words: why it ended or waits, in plain words.
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


@dataclass(frozen=True)
class Link:
    """One job of a run.

    Attributes:
        phase: that it was queued for; of a job queued by hand, that it began first.
        submitted, spare: whether bertjobs queued it, and as one that takes over.
        state: Slurm's word, or the journal's: COMPLETED, STOPPED, FAILED, RUNNING, UNKNOWN.
        source: who said the state: "sacct", "squeue" or "run directory".
        reason: why it waits, in Slurm's word.
        nodes: of its newest start, as Slurm writes them.
        start_unix_s: of its newest start, or when Slurm expects it.
        pid, host: of the launcher of a local job; 0 and "" for others.
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
    cancelled: bool = False
    entries: tuple[Entry, ...] = ()

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
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
        """The phase that it trains, or trained when it was stopped; None where it has begun none since its start."""
        begun = [entry for entry in self.entries if entry.state in ("running", "ended")]
        return begun[-1].phase if begun else None


def jobs_in(events: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A run's jobs in order, by id: ``job``, ``backend``, ``phase``, ``events`` (all, oldest first), and the newest
    event of each kind under its name."""
    jobs: dict[str, dict[str, Any]] = {}
    for event in events:
        if "phase" not in event or not event.get("job"):
            continue
        id = str(event["job"])
        job = jobs.setdefault(id, {"job": id, "backend": "slurm", "phase": event["phase"], "events": []})
        job["backend"] = event.get("backend") or event.get("scheduler") or job["backend"]
        job[event["event"]] = event
        job["events"].append(event)
    return jobs


def timeline(
    jobs: Mapping[str, Mapping[str, Any]],
    told: Answer,
    own: Mapping[str, str],
    metrics: Mapping[int, Sequence[Mapping[str, Any]]],
    tasks_per_node: int,
    undone: Sequence[int],
) -> tuple[Link, ...]:
    """The links of a run, in the order in which the journal first names them.

    Args:
        jobs: `jobs_in` of the journal.
        told: what Slurm says of them.
        own: by job, its state by the run directory alone.
        metrics: by phase, lines of metrics.jsonl.
        tasks_per_node: of the run, to count nodes by.
        undone: phases that are not done, in order. A link that has just started takes the first of them.
    """
    starts = sorted(
        (event["time_unix_s"], event["phase"], int(event.get("step", 0)))
        for job in jobs.values()
        for event in job["events"]
        if event["event"] == "started"
    )
    links = [_link(job, told, own, metrics, starts, tasks_per_node) for job in jobs.values()]
    return tuple(
        replace(link, entries=_with_present(link, told.starts.get(link.job, ()), undone[0] if undone else link.phase))
        for link in links
    )


def _link(
    job: Mapping[str, Any],
    told: Answer,
    own: Mapping[str, str],
    metrics: Mapping[int, Sequence[Mapping[str, Any]]],
    starts: Sequence[tuple[float, int, int]],
    tasks_per_node: int,
) -> Link:
    id, submitted = job["job"], job.get("submitted", {})
    known = told.jobs.get(id) or Job(id, job["backend"], state=own.get(id, "UNKNOWN"))
    link = Link(
        job=id,
        backend=job["backend"],
        phase=job["phase"],
        submitted=bool(submitted),
        spare=bool(submitted.get("spare")),
        state=known.state,
        source=known.source,
        reason=known.reason if known.state in WAITING else "",
        nodes=",".join(known.nodes),
        start_unix_s=unix_s(known.start),
        pid=submitted.get("pid", 0),
        host=submitted.get("host", ""),
        cancelled="cancelled" in job,
    )
    attempts = [
        _attempt(link, events, told.starts.get(id, ()), metrics, starts, tasks_per_node)
        for events in _by_attempt(job["events"])
    ]
    attempts += _not_begun(link, attempts, told.starts.get(id, ()))
    attempts.sort(key=lambda entry: (entry.attempt or 0, entry.started_unix_s or 0.0))
    return replace(link, entries=tuple(attempts))


def _by_attempt(events: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The starts and ends of a job, those of one attempt at one phase together."""
    groups: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for event in events:
        if event["event"] in ("started", "ended", "explained"):
            groups.setdefault((event.get("attempt", 0), event["phase"]), []).append(event)
    return list(groups.values())


def _attempt(
    link: Link,
    events: Sequence[Mapping[str, Any]],
    job_starts: Sequence[JobStart],
    metrics: Mapping[int, Sequence[Mapping[str, Any]]],
    starts: Sequence[tuple[float, int, int]],
    tasks_per_node: int,
) -> Entry:
    """One attempt at one phase, over if it has an end or Slurm has started the job again since."""
    phase, number = events[0]["phase"], events[0].get("attempt", 0)
    began: Mapping[str, Any] = next((event for event in events if event["event"] == "started"), {})
    end: Mapping[str, Any] = next((event for event in reversed(events) if event["event"] == "ended"), {})
    if explained := [event["cause"] for event in events if event["event"] == "explained"]:
        end = {**end, "explained": explained[-1]}
    job_start = job_starts[number] if number < len(job_starts) else JobStart("")
    first, last = _steps(phase, began, end, metrics.get(phase, ()), starts)
    ranks = began.get("world_size", 0)
    counted = f"{max(1, ranks // tasks_per_node)}" if ranks else ""
    # An end that was written for it by the next attempt came at that one's time.
    ended = job_start.ended_unix_s if "told_by" in end else end.get("time_unix_s", job_start.ended_unix_s)
    return Entry(
        job=link.job,
        link=link.name,
        phase=phase,
        attempt=number,
        nodes=job_start.nodes or counted,
        state="ended" if end or number + 1 < len(job_starts) else "running",
        started_unix_s=began.get("time_unix_s", job_start.began_unix_s),
        ended_unix_s=ended,
        first_step=first,
        last_step=last,
        words=end_words(end, job_start.state, link) if end else STATES.get(job_start.state, NO_TRACE),
    )


def _steps(
    phase: int,
    began: Mapping[str, Any],
    end: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    starts: Sequence[tuple[float, int, int]],
) -> tuple[int | None, int | None]:
    """The steps of one attempt that count: those that a later attempt did again are not among them."""
    if not began:
        return None, None
    time, before = began["time_unix_s"], int(began.get("step", 0))
    later = next((start for start in starts if start[1] == phase and start[0] > time), None)
    last = end.get("step")
    if last is None:
        until = later[0] if later else float("inf")
        made = (line["step"] for line in lines if time <= line["time_unix_s"] < until)
        last = max(made, default=later[2] if later else before)
    if later:
        last = min(last, later[2])
    return (before + 1, last) if last > before else (None, None)


def end_words(end: Mapping[str, Any], state: str, link: Link) -> str:
    """Why an attempt ended, in plain words.

    Args:
        end: its event of the journal; ``explained``, where it is there, is what a later attempt said of it.
        state: what sacct says of this start, "" where it is silent.
        link: its job.
    """
    cause = str(end.get("cause", ""))
    if cause == "SIGTERM":
        told = {"CANCELLED": "cancelled", "PREEMPTED": "preempted", "REQUEUED": "requeued"}.get(state, "")
        told = "cancelled" if link.cancelled else str(end.get("explained", told))
        told = told or ("interrupted" if link.backend == "local" else "preempted, or cancelled")
        return f"{told}: stopped with a checkpoint"
    words = CAUSES.get(cause, cause) or NO_TRACE
    error = str(end.get("error", "")).strip().split("\n")[0].removeprefix("error: ")
    text = f"{words}: {error}" if error else words
    return text if len(text) <= ERROR_WIDTH else text[: ERROR_WIDTH - 3] + "..."


def _not_begun(link: Link, attempts: Sequence[Entry], job_starts: Sequence[JobStart]) -> list[Entry]:
    """Starts that Slurm has and the journal has not, but for the one that goes on: the worker never began."""
    numbers = {entry.attempt for entry in attempts}
    return [
        Entry(
            job=link.job,
            link=link.name,
            phase=link.phase,
            attempt=number,
            nodes=start.nodes,
            started_unix_s=start.began_unix_s,
            ended_unix_s=start.ended_unix_s,
            words=f"before training: {STATES.get(start.state, start.state)}",
        )
        for number, start in enumerate(job_starts)
        if number not in numbers and start.began_unix_s and not (link.is_active and number + 1 == len(job_starts))
    ]


def _with_present(link: Link, job_starts: Sequence[JobStart], next_phase: int) -> tuple[Entry, ...]:
    """The attempts of a job, closed where it does not run any more; and after them, what it does now."""
    attempts = link.entries
    last = attempts[-1] if attempts else None
    if last and last.state == "running" and link.state in RUNNING:
        return (*(_closed(entry, link) for entry in attempts[:-1]), replace(last, words=""))
    closed = tuple(_closed(entry, link) for entry in attempts)
    newest = max(len(job_starts) - 1, 0 if last is None or last.attempt is None else last.attempt)
    present = Entry(link.job, link.name, last.phase if last else link.phase)
    if link.state in WAITING:
        number = newest + (last is not None and newest == last.attempt)
        return (*closed, replace(present, attempt=number if last else None, state="waiting", words=link.waits))
    if link.state in ("RUNNING", "CONFIGURING") and link.backend != "local":
        began = link.start_unix_s
        if last and last.attempt == newest:
            if began and last.ended_unix_s and began >= last.ended_unix_s:
                newest += 1  # sacct knows it late
            elif last.words != "done":  # after which the same attempt goes on with the next phase
                return closed
        words = (link.job, link.name, next_phase, newest, link.nodes, "starting")
        return (*closed, Entry(*words, started_unix_s=began))
    never = f"never started: {STATES.get(link.state, link.state.lower())}"
    return closed or (replace(present, words=never),)


def _closed(entry: Entry, link: Link) -> Entry:
    """An attempt that is over; where the journal has no end of it, the job's state says why."""
    if entry.state != "running":
        return entry
    words = STATES.get(link.state, NO_TRACE) if entry.words == NO_TRACE else entry.words
    return replace(entry, state="ended", words=words)


def link_of(phase: int, links: Sequence[Link], undone: Sequence[int]) -> Link | None:
    """The job that speaks for a phase that is not done.

    The job that last began it, if it waits or runs; else the active job that will train it; else the one whose end is
    the phase's: that began it last, or was queued for it last. None where nobody ever was to train it.

    Args:
        links: of the run.
        undone: phases that are not done, in order. An idle link takes the first of them.
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
    queued = [link for link in links if link.phase == phase and not link.is_active]  # the active have other work
    return next(iter(ordered), None) or began or (queued[-1] if queued else None)


def _is_free(link: Link, undone: Sequence[int]) -> bool:
    return link.works_on is None or link.works_on not in undone or link.state in WAITING


def _last_to_begin(phase: int, links: Sequence[Link]) -> Link | None:
    newest, found = -1.0, None
    for link in links:
        for entry in link.entries:
            began = entry.attempt is not None and entry.state in ("running", "ended") and entry.phase == phase
            if began and (entry.started_unix_s or entry.ended_unix_s or 0.0) >= newest:
                newest, found = entry.started_unix_s or entry.ended_unix_s or 0.0, link
    return found
