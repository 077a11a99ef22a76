"""Slurm's word on a job: read from what sacct and squeue print, and its reasons in plain words. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING")
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "SUSPENDED")
NEVER = "DependencyNeverSatisfied"

# https://slurm.schedmd.com/job_reason_codes.html
REASONS = {
    "Resources": "the nodes that it asks for are busy; it is next in line",
    "Priority": "jobs of a higher priority wait before it",
    "Dependency": "it waits for the end of another job",
    NEVER: "it waits for a job that did not end as it had to; it will never start",
    "BeginTime": "its start time has not come yet; after a requeue Slurm waits about two minutes",
    "JobHeldUser": "it is held, by you or in your name",
    "JobHeldAdmin": "an administrator holds it",
    "JobLaunchFailure": "it could not be launched, and is held",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "PartitionDown": "its partition takes jobs but starts none at the moment",
    "PartitionInactive": "its partition starts no jobs at the moment",
    "PartitionTimeLimit": "it asks for more time than its partition allows; it will not start as it is",
    "PartitionNodeLimit": "it asks for more nodes than its partition allows; it will not start as it is",
    "BadConstraints": "no node has what it asks for; it will not start as it is",
    "InvalidAccount": "its account is not valid; it will not start as it is",
    "InvalidQOS": "its QOS is not valid; it will not start as it is",
    "AccountNotAllowed": "its partition is closed to its account; it will not start as it is",
    "Licenses": "licenses that it asks for are in use",
    "Reservation": "its reservation has not begun",
    "Cleaning": "it was requeued, and its last start is still being cleaned up",
}
LIMITS = (
    ("MaxJobsPerUser", "you have as many jobs as you may have at once"),
    ("AssocGrp", "your account has reached its limit"),
    ("AssocMax", "it asks for more than your account allows"),
    ("QOSGrp", "its QOS has reached its limit"),
    ("QOSMax", "it asks for more than its QOS allows, or you have reached the QOS's limit"),
    ("MaxNodePerAccount", "your account has as many nodes as it may have"),
)
HELD = ("JobHeldUser", "JobLaunchFailure")


@dataclass(frozen=True)
class Job:
    """One job of a phase.

    Attributes:
        backend: "slurm" or "local".
        state: Slurm's word, such as PENDING or TIMEOUT; for others COMPLETED, STOPPED, FAILED, RUNNING or UNKNOWN.
        source: who said so: "squeue", "sacct" or "run directory".
        reason: why it waits, or ended, in Slurm's word.
        exit_code: the batch script's, as sacct has it.
        nodes: names of the nodes of its last start.
        time_limit: as Slurm writes it.
        start: when Slurm expects a waiting job to start, as Slurm writes it.
        past: states of its earlier starts, oldest first.
        steps: states of its job steps, over all starts.
        cancelled: whether ``bertjobs cancel`` ended it.
    """

    id: str
    backend: str = "slurm"
    state: str = "UNKNOWN"
    source: str = "run directory"
    reason: str = ""
    exit_code: int | None = None
    nodes: tuple[str, ...] = ()
    time_limit: str = ""
    start: str = ""
    past: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    cancelled: bool = False


def told_by_sacct(text: str) -> dict[str, Job]:
    """Jobs from lines of JobID|State|ExitCode|Reason|NodeList|Timelimit: each start of a job, then its steps."""
    jobs: dict[str, Job] = {}
    for row in _rows(text, 6):
        id, _, step = row[0].partition(".")
        state = row[1].split()[0] if row[1] else "UNKNOWN"
        before = jobs.get(id, Job(id))
        if step:
            jobs[id] = replace(before, steps=(*before.steps, state))
            continue
        jobs[id] = Job(
            id,
            state=state,
            source="sacct",
            reason=_word(row[3]),
            exit_code=int(row[2].split(":")[0] or 0),
            nodes=_names(row[4]),
            time_limit=row[5],
            past=(*before.past, before.state) if id in jobs else (),
            steps=before.steps,
        )
    return jobs


def told_by_squeue(text: str, known: Mapping[str, Job]) -> dict[str, Job]:
    """``known``, corrected by lines of JOBID|STATE|REASON|NODELIST|TIME_LIMIT|START_TIME."""
    jobs = dict(known)
    for id, state, reason, nodes, limit, start in _rows(text, 6):
        before = jobs.get(id, Job(id))
        jobs[id] = replace(
            before,
            state=state,
            source="squeue",
            reason=_word(reason) or before.reason,
            nodes=_names(nodes) or before.nodes,
            time_limit=limit,
            start=_word(start),
        )
    return jobs


def _rows(text: str, fields: int) -> list[list[str]]:
    rows = (line.split("|") for line in text.splitlines())
    return [row for row in rows if len(row) == fields]


def _word(text: str) -> str:
    return "" if text in ("None", "N/A", "Unknown", "(null)") else text


def _names(text: str) -> tuple[str, ...]:
    return (text,) if _word(text) and text != "None assigned" else ()


def reason_words(reason: str) -> str:
    """A reason of squeue's in plain words, with Slurm's own in brackets."""
    word = reason.strip("()").split(",")[0].split()[0] if reason.strip("() ") else ""
    words = REASONS.get(word) or next((text for sign, text in LIMITS if sign in word), "")
    if not word:
        return "Slurm has not said why yet"
    return f"{words} ({reason})" if words else f"Slurm says {reason}"


def doubled(limit: str) -> str:
    """Twice a time limit of Slurm's, ``1-02:00:00`` or ``30:00``, in minutes; "" for one that is no time."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if not found:
        return ""
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return str(2 * max(1, (days * 24 + hours) * 60 + minutes + (seconds > 0)))


def job_line(job: Job) -> str:
    """What is known of a job and who said so, as evidence."""
    parts = [f"job {job.id}: {job.state}"]
    parts += [f"reason {job.reason}"] if job.reason else []
    parts += [f"exit code {job.exit_code}"] if job.exit_code else []
    return ", ".join(parts) + f" (told by {job.source})"
