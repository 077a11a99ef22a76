"""What sacct, squeue and scontrol print about jobs, as values. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bertjobs.slurm.times import date_text, unix_s

SUSPENDED = "SUSPENDED"
RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "STAGE_OUT", "SIGNALING", SUSPENDED)
"""States of a job that has its nodes."""
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
NEVER = "DependencyNeverSatisfied"

SACCT_FORMAT = "JobID,State,ExitCode,Reason,NodeList,Timelimit,Start,End"
"""Format of ``sacct -nPD``, for `jobs_of_sacct` and `starts_of_sacct`."""

SQUEUE_FORMAT = "%i|%T|%r|%N|%l|%S"
"""Format of squeue, for `jobs_of_squeue`."""

PENDING_FORMAT = "%i|%E|%j"
"""Format of squeue, for `pending_of_squeue`; the name comes last, as it may contain anything."""

ELEMENTS_FORMAT = "%i|%T|%j|%r"
"""Format of ``squeue -r``, for `elements_of_squeue`."""


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        backend: "slurm" or "local".
        state: Slurm's word, such as PENDING or TIMEOUT; for other jobs COMPLETED, STOPPED, FAILED, RUNNING or UNKNOWN.
        source: where the state comes from: "squeue", "sacct" or "run directory".
        reason: why it waits or has ended, in Slurm's word.
        exit_code: the batch script's, as sacct reports it.
        nodes: names of the nodes of its last start.
        time_limit: as Slurm writes it.
        start: when Slurm expects a waiting job to start, as Slurm writes it: the client asks for seconds since 1970.
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

    @property
    def start_text(self) -> str:
        """``start`` as a person reads it; "" if it is not known."""
        start_unix_s = unix_s(self.start)
        return self.start if start_unix_s is None else date_text(start_unix_s)


@dataclass(frozen=True)
class JobStart:
    """One start of a job, as sacct reports it; ``nodes`` as Slurm writes them, times None if they are not known."""

    state: str
    began_unix_s: float | None = None
    ended_unix_s: float | None = None
    nodes: str = ""


@dataclass(frozen=True)
class JobReport:
    """What Slurm says about some jobs.

    Attributes:
        jobs: by id; ``start`` is in seconds since 1970.
        starts: by id, oldest first: a requeued job has several.
        source: "sacct+squeue", "sacct", "squeue", or "run directory" if Slurm said nothing.
        silence: why one of them could not be asked, or "".
    """

    jobs: Mapping[str, Job] = field(default_factory=dict)
    starts: Mapping[str, tuple[JobStart, ...]] = field(default_factory=dict)
    source: str = "run directory"
    silence: str = ""


_SUBMITTED = re.compile(r"(\d+)(\+\d+)?(;\S+)?")


def submitted_id(text: str) -> str:
    """The job's id in what ``sbatch --parsable`` printed: ``17``, ``17;cluster`` or ``17+0``, on a line of its own,
    whatever a site's banner says around it; "" if there is none."""
    matches = (_SUBMITTED.fullmatch(line.strip()) for line in reversed(text.splitlines()))
    return next((match[1] for match in matches if match), "")


def rows(text: str, fields: int) -> list[list[str]]:
    """The cells of each line with at least ``fields`` of them; further ``|`` stay in the last cell."""
    cells = (line.split("|", fields - 1) for line in text.splitlines())
    return [row for row in cells if len(row) == fields]


_COMPONENT = re.compile(r"(\d+)\+(\d+)")


def leader(id: str) -> tuple[str, bool]:
    """The job that an id belongs to, and whether it is that job's own: of the components of a heterogeneous job,
    ``17+0`` and ``17+1``, the first is the job 17."""
    match = _COMPONENT.fullmatch(id)
    return (match[1], int(match[2]) == 0) if match else (id, True)


def jobs_of_sacct(text: str) -> dict[str, Job]:
    """Jobs from sacct's lines in `SACCT_FORMAT`, each start of a job in order, with its steps or without. The further
    components of a heterogeneous job only add their nodes and steps to it."""
    jobs: dict[str, Job] = {}
    for id_and_step, state_text, codes, reason, nodes, limit_and_times in rows(text, 6):
        component, _, step = id_and_step.partition(".")
        id, is_own = leader(component)
        state = _state(state_text) if state_text else "UNKNOWN"
        before = jobs.get(id, Job(id))
        if step:
            jobs[id] = replace(before, steps=(*before.steps, state))
            continue
        if not is_own:
            jobs[id] = replace(before, nodes=_joined(before.nodes, nodes))
            continue
        jobs[id] = Job(
            id,
            state=state,
            source="sacct",
            reason=_word(reason),
            exit_code=int(codes.split(":")[0] or 0),
            nodes=_names(nodes),
            time_limit=limit_and_times.partition("|")[0],
            past=(*before.past, before.state) if id in jobs else (),
            steps=before.steps,
        )
    return jobs


def starts_of_sacct(text: str) -> dict[str, tuple[JobStart, ...]]:
    """The starts of each job, oldest first, from sacct's lines in `SACCT_FORMAT`."""
    starts: dict[str, tuple[JobStart, ...]] = {}
    for id, state, _, _, nodes, _, began, ended in rows(text, 8):
        if not state or "." in id:
            continue
        job, is_own = leader(id)
        before = starts.get(job, ())
        if is_own:
            # One cancelled within seconds of its submission has a time, but never had nodes.
            began_unix_s = unix_s(began) if _names(nodes) else None
            start = JobStart(state.split()[0], began_unix_s, unix_s(ended), "".join(_names(nodes)))
            starts[job] = (*before, start)
        elif before:
            last = replace(before[-1], nodes="".join(_joined((before[-1].nodes,), nodes)))
            starts[job] = (*before[:-1], last)
    return starts


def jobs_of_squeue(text: str, known: Mapping[str, Job]) -> dict[str, Job]:
    """``known``, corrected by squeue's lines in `SQUEUE_FORMAT`."""
    jobs = dict(known)
    for component, state, reason, nodes, limit, start in rows(text, 6):
        id, is_own = leader(component)
        before = jobs.get(id, Job(id))
        if not is_own:
            jobs[id] = replace(before, nodes=_joined(before.nodes, nodes))
            continue
        jobs[id] = replace(
            before,
            state=_state(state),
            source="squeue",
            reason=_word(reason) or before.reason,
            nodes=_names(nodes) or before.nodes,
            time_limit=limit,
            start=_word(start),
        )
    return jobs


def without_runaways(jobs: Mapping[str, Job]) -> dict[str, Job]:
    """``jobs``, after squeue has answered: the state of one that sacct calls queued or running, but that is in no
    queue, is unknown. Accounting lost its end when a daemon crashed."""
    return {
        id: replace(job, state="UNKNOWN") if job.source == "sacct" and job.state in (*RUNNING, *WAITING) else job
        for id, job in jobs.items()
    }


def elements_of_squeue(text: str, name: str) -> dict[str, Job]:
    """The jobs called ``name``, elements of arrays one by one, from squeue's lines in `ELEMENTS_FORMAT`.

    By id: ``JOB`` or ``JOB_INDEX``.
    """
    jobs = {}
    for component, state, job_name, reason in rows(text, 4):
        id, is_own = leader(component.partition("_[")[0])  # of an array that is waiting as a whole
        if job_name == name and is_own:
            jobs[id] = Job(id, state=state, source="squeue", reason=_word(reason))
    return jobs


def is_link(name: str, run: str, kind: str = "") -> bool:
    """Whether a job's name is that of a link of ``run``: ``RUN-phaseN`` or ``RUN-spare``; ``kind`` "phase" or "spare"
    takes one of the two."""
    what, dash, end = name.rpartition("-")
    of_phase = end.startswith("phase") and end.removeprefix("phase").isdigit()
    return what == run and bool(dash) and (of_phase or end == "spare") and end.startswith(kind)


def name_in_array(id: str, name: str) -> str:
    """The name that a link of a run would have of its own, which is the element ``17_3`` of a study's array:
    ``STUDY-3-phase1`` for an array called ``STUDY-phase1``; ``name`` for other jobs."""
    _, _, index = id.partition("_")
    study, dash, phase = name.rpartition("-")
    return f"{study}-{index}-{phase}" if index.isdigit() and dash else name


def _state(text: str) -> str:
    """A state's first word: ``CANCELLED by 1000`` names the user. One that ``scancel -s STOP`` stopped keeps its nodes,
    and that is all that a suspended one does."""
    word = text.split()[0]
    return SUSPENDED if word == "STOPPED" else word


def _word(text: str) -> str:
    return "" if text in ("None", "N/A", "Unknown", "(null)") else text


def _joined(names: tuple[str, ...], more: str) -> tuple[str, ...]:
    """The nodes of a job with those of a further component, as Slurm writes them."""
    joined = ",".join(dict.fromkeys([*filter(None, names), *_names(more)]))
    return (joined,) if joined else ()


def _names(text: str) -> tuple[str, ...]:
    return (text,) if _word(text) and text != "None assigned" else ()


@dataclass(frozen=True)
class Pending:
    """A job that is waiting in the queue; ``dependency`` as Slurm writes it, "" for none."""

    id: str
    name: str
    dependency: str = ""

    def is_behind(self, job: str) -> bool:
        """Whether it waits for ``job`` to end, however it ends."""
        return re.search(rf"\bafterany:{re.escape(job)}(?![0-9])", self.dependency) is not None


def pending_of_squeue(text: str) -> tuple[Pending, ...]:
    """Waiting jobs from squeue's lines in `PENDING_FORMAT`."""
    jobs = [(leader(id), dependency, name) for id, dependency, name in rows(text, 3)]
    return tuple(Pending(id, name, _word(dependency)) for (id, is_own), dependency, name in jobs if is_own)


_KEY = re.compile(r"(?:^|\s+)([A-Z][A-Za-z0-9_/:]*)=")
_WHOLE_LINE = ("Command", "Comment", "AdminComment", "SystemComment", "WorkDir", "StdErr", "StdIn", "StdOut")


def record_of_scontrol(text: str) -> dict[str, str]:
    """The fields of the first record that ``scontrol show job`` or ``node`` prints; {} if it prints none.

    Fields of free text (paths, comments) have a line each, and are taken whole, including blanks and ``=``.
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
    """The states of a job's starts, oldest first (``CANCELLED by 1000``), from ``sacct -nXDP -o JobID,State``."""
    return tuple(state for id, state in rows(text, 2) if leader(id)[1] and _STATE.fullmatch(state))
