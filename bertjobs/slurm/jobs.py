"""What sacct and squeue say of jobs, as values. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING")
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "SUSPENDED")
NEVER = "DependencyNeverSatisfied"
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


IN_JOB = 6
"""So many of sacct's fields are `told_by_sacct`'s; the others are those of one start."""


@dataclass(frozen=True)
class JobStart:
    """One start of a job, as sacct has it; ``nodes`` as Slurm writes them, times None where they are not known."""

    state: str
    began_unix_s: float | None = None
    ended_unix_s: float | None = None
    nodes: str = ""


@dataclass(frozen=True)
class Told:
    """Slurm's answer.

    Attributes:
        jobs: by id; ``start`` is in seconds since 1970.
        starts: by id, oldest first: a requeued job has several.
        source: "sacct+squeue", "sacct", "squeue", or "run directory" where Slurm said nothing.
        silence: why one of them could not be asked, or "".
    """

    jobs: Mapping[str, Job] = field(default_factory=dict)
    starts: Mapping[str, tuple[JobStart, ...]] = field(default_factory=dict)
    source: str = "run directory"
    silence: str = ""


def starts_told(text: str) -> dict[str, tuple[JobStart, ...]]:
    """The starts of each job from sacct's lines: JobID|State|ExitCode|Reason|NodeList|Timelimit|Start|End."""
    starts: dict[str, tuple[JobStart, ...]] = {}
    for line in text.splitlines():
        row = line.split("|")
        if len(row) == IN_JOB + 2 and row[1]:
            nodes = "" if row[4] == "None assigned" else row[4]
            start = JobStart(row[1].split()[0], unix_s(row[6]), unix_s(row[7]), nodes)
            starts[row[0]] = (*starts.get(row[0], ()), start)
    return starts


def unix_s(text: str) -> float | None:
    """A time as Slurm writes it with ``SLURM_TIME_FORMAT=%s``; None for ``Unknown`` and ``N/A``."""
    return float(text) if text.isdigit() and int(text) else None


PENDING_FORMAT = "%i|%E|%j"
"""Of squeue, for `pending_of_squeue`; the name comes last, as it may hold anything."""


@dataclass(frozen=True)
class Pending:
    """A job that waits in the queue; ``dependency`` as Slurm writes it, "" for none."""

    id: str
    name: str
    dependency: str = ""

    def is_behind(self, job: str) -> bool:
        """Whether it waits for the end, of any kind, of ``job``."""
        return re.search(rf"\bafterany:{re.escape(job)}(?![0-9])", self.dependency) is not None


def pending_of_squeue(text: str) -> tuple[Pending, ...]:
    """Waiting jobs from squeue's lines in `PENDING_FORMAT`."""
    rows = (line.split("|", 2) for line in text.splitlines())
    return tuple(Pending(row[0], row[2], _word(row[1])) for row in rows if len(row) == 3)


_KEY = re.compile(r"(?:^|\s+)([A-Z][A-Za-z0-9_/:]*)=")
_WHOLE_LINE = ("Command", "Comment", "AdminComment", "SystemComment", "WorkDir", "StdErr", "StdIn", "StdOut")


def record_of_scontrol(text: str) -> dict[str, str]:
    """The fields of the first job that ``scontrol show job`` prints; {} where it prints none.

    Fields of free text (paths, comments) have a line each, and are taken whole, blanks and ``=`` included.
    """
    record: dict[str, str] = {}
    for line in text.strip().splitlines():
        if not line.strip():
            break  # the next element of an array
        whole, equals, value = line.strip().partition("=")
        if equals and whole in _WHOLE_LINE:
            record[whole] = value
            continue
        _, *parts = _KEY.split(line)
        for key, value in zip(parts[::2], parts[1::2], strict=True):
            record.setdefault(key, value.strip())
    return record


_STATE = re.compile(r"[A-Z_]+( by \d+)?")


def states_of_sacct(text: str) -> tuple[str, ...]:
    """The states of a job's starts, oldest first, from ``sacct -nXDP -o State``, such as ``CANCELLED by 1000``."""
    return tuple(line for line in text.splitlines() if _STATE.fullmatch(line))
