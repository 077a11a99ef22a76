"""What is known of a run: the run directory's files, the ends of its logs, and Slurm's word on its jobs.

`collect` reads; nothing here judges. Where Slurm is silent or absent, the files are all there is.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bertjobs.errors import BertjobsError
from bertjobs.files.json_lines import numbers, read_lines
from bertjobs.launch.doctor.log_errors import Said, batch_parts, errors_in
from bertjobs.launch.watch.logs import is_labelled, shown
from bertjobs.launch.watch.status import told_by_journal
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.checkpoints import MANIFEST, steps
from bertjobs.run.directory import PhaseDirectory, RunDirectory
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.jobs import Job

TAIL_BYTES = 1 << 20
"""Read from a log's end: stacks of some hundred ranks fit."""

LAST_LINES = 8
RECENT_STEPS = 20


@dataclass(frozen=True)
class Attempt:
    """One start of a phase's worker.

    Attributes:
        job, number: the job's id, and how often it was requeued before.
        started_unix_s: when the worker began to train; None where it did not come so far.
        seen_unix_s: when its log was last written, else ``started_unix_s``.
        cause, exit_code: of its end, as the journal or the batch script have it; "" and None where neither does.
        log: the worker's log below the run's folder, or "".
        errors: what its log and the batch script's say, in order.
        last_lines: of its log.
    """

    job: str
    number: int
    started_unix_s: float | None = None
    seen_unix_s: float = 0.0
    cause: str = ""
    exit_code: int | None = None
    log: str = ""
    errors: tuple[Said, ...] = ()
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhaseEvidence:
    """One phase.

    Attributes:
        number, steps: which, and its optimizer steps in all.
        is_done: whether its DONE.json is there.
        step, step_unix_s: the newest step, 0 and None before the first.
        alive_unix_s: when a step or a validation last ended.
        step_time_s: median of the newest steps.
        checkpoint, checkpoint_unix_s, checkpoint_bytes: the newest one: its name, when it was written, its size.
        has_script: whether its batch script is there, as `submit` wrote it.
        jobs, attempts: oldest first.
    """

    number: int
    steps: int
    is_done: bool = False
    step: int = 0
    step_unix_s: float | None = None
    alive_unix_s: float | None = None
    step_time_s: float | None = None
    checkpoint: str = ""
    checkpoint_unix_s: float = 0.0
    checkpoint_bytes: int = 0
    has_script: bool = False
    jobs: tuple[Job, ...] = ()
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """All of a run.

    Attributes:
        spec: run.yml's.
        folder: the run's.
        target: the words that name the run on a command line.
        now_unix_s: when this was collected.
        phases: in order.
        free_bytes: room where the run's folder lies.
        silence: why Slurm could not be asked, or "".
    """

    spec: RunSpec
    folder: Path
    target: str
    now_unix_s: float
    phases: tuple[PhaseEvidence, ...] = field(default=())
    free_bytes: int = 0
    silence: str = ""


def collect(directory: RunDirectory, slurm: Slurm, target: str, now: float) -> Evidence:
    """Read everything there is about a run.

    Raises:
        InputError: its run.yml cannot be read.
    """
    spec = read_lockfile(directory.lockfile)
    journal = _folded(directory.events())
    asked = {job["job"] for job in journal.values() if job["backend"] != "local"}
    # Jobs that ended before the journal knew them have logs: <job>-<attempt>.out, slurm-<job>.out.
    names = [file.stem for folder in directory.phases() for file in folder.logs.glob("*.out")]
    asked |= {job for name in names if (job := name.removeprefix("slurm-").split("-")[0]).isdigit()}
    told, silence = {}, ""
    try:
        told = slurm.jobs(sorted(asked))
    except BertjobsError as error:
        silence = error.what
    return Evidence(
        spec=spec,
        folder=directory.root,
        target=target,
        now_unix_s=now,
        phases=tuple(
            _phase(
                directory.phase(phase.phase),
                phase.steps,
                [job for (number, _), job in journal.items() if number == phase.phase],
                told,
            )
            for phase in spec.phases
        ),
        free_bytes=shutil.disk_usage(directory.root).free,
        silence=silence,
    )


def _folded(events: Iterable[Mapping[str, Any]]) -> dict[tuple[int, str], dict[str, Any]]:
    """By phase and job: the job's events by name, the newest of each, and ``attempts``: number -> its events."""
    jobs: dict[tuple[int, str], dict[str, Any]] = {}
    for event in events:
        if "phase" not in event or not event.get("job"):
            continue
        job = jobs.setdefault(
            (event["phase"], str(event["job"])), {"job": str(event["job"]), "backend": "slurm", "attempts": {}}
        )
        job["backend"] = event.get("backend") or event.get("scheduler") or job["backend"]
        job[event["event"]] = event
        job.setdefault("since", event["time_unix_s"])
        if "attempt" in event:
            job["attempts"].setdefault(event["attempt"], {})[event["event"]] = event
    return jobs


def _phase(
    folder: PhaseDirectory, total: int, journal: Sequence[Mapping[str, Any]], told: Mapping[str, Job]
) -> PhaseEvidence:
    metrics = read_lines(folder.metrics)[-RECENT_STEPS:]
    last = metrics[-1] if metrics else {}
    times = [line["time_unix_s"] for line in metrics[-1:]]
    if folder.validation.exists():
        times.append(folder.validation.stat().st_mtime)
    checkpoints = steps(folder.checkpoints)
    newest = checkpoints[-1] if checkpoints else None
    jobs, attempts = _jobs(folder, journal, told)
    return PhaseEvidence(
        number=folder.number,
        steps=total,
        is_done=folder.done() is not None,
        step=last.get("step", 0),
        step_unix_s=last.get("time_unix_s"),
        alive_unix_s=max(times, default=None),
        step_time_s=statistics.median(took) if (took := numbers(metrics, "step_time_s")) else None,
        checkpoint=newest.name if newest else "",
        checkpoint_unix_s=_written(newest / MANIFEST) if newest else 0.0,
        checkpoint_bytes=sum(file.stat().st_size for file in newest.iterdir()) if newest else 0,
        has_script=folder.script.exists(),
        jobs=jobs,
        attempts=attempts,
    )


def _written(file: Path) -> float:
    return file.stat().st_mtime if file.exists() else 0.0


def _jobs(
    folder: PhaseDirectory, journal: Sequence[Mapping[str, Any]], told: Mapping[str, Job]
) -> tuple[tuple[Job, ...], tuple[Attempt, ...]]:
    """A phase's jobs and attempts, from the journal, the logs' names, and what Slurm has told."""
    attempts = {(attempt.job, attempt.number): attempt for attempt in _logs(folder)}
    since: dict[str, float] = {}
    for attempt in attempts.values():
        since[attempt.job] = min(attempt.seen_unix_s, since.get(attempt.job, attempt.seen_unix_s))
    jobs = {id: told.get(id, Job(id, "slurm" if id.isdigit() else "local")) for id in since}
    for job in journal:
        id = job["job"]
        since[id] = job["since"]
        own = Job(id, job["backend"], told_by_journal(job))
        jobs[id] = replace(told.get(id, own), backend=job["backend"], cancelled="cancelled" in job)
        for number, events in job["attempts"].items():
            before = attempts.get((id, number), Attempt(id, number))
            attempts[id, number] = _with_events(before, events)
    ordered = sorted(jobs, key=lambda id: since[id])
    return (
        tuple(jobs[id] for id in ordered),
        tuple(attempts[key] for key in sorted(attempts, key=lambda key: (since[key[0]], key[1]))),
    )


def _with_events(attempt: Attempt, events: Mapping[str, Mapping[str, Any]]) -> Attempt:
    started, ended = events.get("started", {}), events.get("ended", {})
    errors = attempt.errors
    if not errors and ended.get("error"):
        errors = errors_in(str(ended["error"]).splitlines())
    return replace(
        attempt,
        started_unix_s=started.get("time_unix_s"),
        seen_unix_s=attempt.seen_unix_s or ended.get("time_unix_s") or started.get("time_unix_s", 0.0),
        cause=str(ended.get("cause", "")),
        exit_code=attempt.exit_code if ended.get("exit_code") is None else ended["exit_code"],
        errors=errors,
    )


def _logs(folder: PhaseDirectory) -> list[Attempt]:
    """The attempts that have a log, and what it says; where only a job's batch script spoke, that as attempt 0."""
    found: dict[tuple[str, int], Attempt] = {}
    for file in folder.logs.glob("*.out"):
        job, _, number = file.stem.rpartition("-")
        if job != "slurm" and number.isdigit():
            found[job, int(number)] = _spoken(file, folder, job, int(number))
    for file in folder.logs.glob("slurm-*.out"):
        job = file.stem.removeprefix("slurm-")
        attempts = sorted(attempt for id, attempt in found if id == job)
        if not attempts:
            found[job, 0] = _spoken(file, folder, job, 0)
            continue
        for attempt, (code, own) in batch_parts(_tail(file), attempts[-1]).items():
            if attempt in attempts:
                before = found[job, attempt]
                found[job, attempt] = replace(before, exit_code=code, errors=before.errors + errors_in(own))
    return list(found.values())


def _spoken(file: Path, folder: PhaseDirectory, job: str, number: int) -> Attempt:
    lines = _tail(file)
    return Attempt(
        job,
        number,
        seen_unix_s=file.stat().st_mtime,
        log=str(file.relative_to(folder.root.parent)),
        errors=errors_in(lines),
        last_lines=tuple(line for line in lines if line.strip())[-LAST_LINES:],
    )


def _tail(file: Path) -> list[str]:
    """The last lines, those of other ranks than 0 under ``rank N:``."""
    with open(file, "rb") as handle:
        labelled = is_labelled(handle.readline().decode(errors="replace"))
        handle.seek(max(0, file.stat().st_size - TAIL_BYTES))
        lines = handle.read().decode(errors="replace").splitlines()
    return [line for line in (shown(line, None, labelled) for line in lines) if line is not None]
