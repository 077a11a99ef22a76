"""A run seen from outside: what the run directory says, and what Slurm says of its jobs."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertjobs.errors import InputError
from bertjobs.launch.estimate import duration
from bertjobs.launch.slurm import Slurm
from bertjobs.launch.table import columns
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.run.atomic import read_lines
from bertjobs.run.checkpoints import steps
from bertjobs.run.directory import RunDirectory

ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
FOLLOW_POLL_S = 0.5
ASK_EVERY_S = 5.0
"""Seconds between questions to Slurm while a log is followed: every user's go to one controller."""


@dataclass(frozen=True)
class PhaseStatus:
    """One phase of a run.

    Attributes:
        state: DONE, or the newest job's state (PENDING, RUNNING, CANCELLED, ...), or NOT STARTED.
        job: the newest job's id, "" where none was started.
        source: who said the state: "run directory", "sacct", "squeue" or "sacct+squeue".
        steps_done, steps: optimizer steps.
        loss_nats, sequences_per_s: of the newest step, None before the first.
        step_age_s: seconds since the newest step.
        checkpoint: the newest checkpoint's name, or "".
    """

    run: str
    phase: int
    state: str
    job: str
    source: str
    steps_done: int
    steps: int
    loss_nats: float | None
    sequences_per_s: float | None
    step_age_s: float | None
    checkpoint: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def jobs_of(directory: RunDirectory) -> dict[int, dict[str, Any]]:
    """The newest job of each phase: its events folded into one mapping (job, backend, pid, started, ended).

    Jobs that were queued by hand are known from the worker's own events.
    """
    newest: dict[int, dict[str, Any]] = {}
    for event in directory.events():
        if "phase" not in event:
            continue
        job = newest.get(event["phase"])
        if job is None or job["job"] != event["job"]:
            job = newest[event["phase"]] = {"job": event["job"], "backend": event.get("scheduler", "slurm")}
        job[event["event"]] = event
        if event["event"] == "submitted":
            job["backend"] = event["backend"]
    return newest


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs a bertjobs command on this machine."""
    try:
        return b"bertjobs" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def told_by_journal(job: Mapping[str, Any]) -> str:
    """A job's state from its own events: how it ended, and for a local one whether its launcher is alive."""
    if "ended" in job and job["ended"]["time_unix_s"] >= job.get("started", job["ended"])["time_unix_s"]:
        code = job["ended"]["exit_code"]
        return {0: "COMPLETED", 75: "STOPPED"}.get(code, "FAILED")
    if job["backend"] == "slurm":
        return "UNKNOWN"
    if "submitted" not in job or job["submitted"]["host"] != socket.gethostname():
        return "UNKNOWN"
    return "RUNNING" if is_alive(job["submitted"]["pid"]) else "FAILED"


def run_status(directory: RunDirectory, slurm: Slurm, now: float) -> list[PhaseStatus]:
    """Each phase's status; asks Slurm only about jobs whose phase is not done."""
    spec = read_lockfile(directory.lockfile)
    jobs = jobs_of(directory)
    undone = {phase.phase for phase in spec.phases if directory.phase(phase.phase).done() is None}
    asked = [job["job"] for number, job in jobs.items() if number in undone and job["backend"] == "slurm"]
    states, source = slurm.states(asked)
    result = []
    for phase in spec.phases:
        folder = directory.phase(phase.phase)
        job = jobs.get(phase.phase)
        told = "run directory"
        if phase.phase not in undone:
            state = "DONE"
        elif job is None:
            state = "NOT STARTED"
        elif job["backend"] == "slurm" and job["job"] in states:
            state, told = states[job["job"]], source
        else:
            state = told_by_journal(job)
        metrics = read_lines(folder.metrics)
        last = metrics[-1] if metrics else None
        checkpoints = steps(folder.checkpoints)
        result.append(
            PhaseStatus(
                run=spec.run,
                phase=phase.phase,
                state=state,
                job=job["job"] if job else "",
                source=told,
                steps_done=last["step"] if last else 0,
                steps=phase.steps,
                loss_nats=last["loss_nats"] if last else None,
                sequences_per_s=last["sequences_per_s"] if last else None,
                step_age_s=round(now - last["time_unix_s"], 1) if last else None,
                checkpoint=checkpoints[-1].name if checkpoints else "",
            )
        )
    return result


def status_text(rows: list[PhaseStatus]) -> str:
    """The table of ``bertjobs status``."""
    head = ["run", "phase", "state", "job", "step", "loss", "sequences/s", "last step", "checkpoint", "told by"]
    body = [
        [
            row.run,
            str(row.phase),
            row.state,
            row.job or "-",
            f"{row.steps_done}/{row.steps}",
            "-" if row.loss_nats is None else f"{row.loss_nats:.3f}",
            "-" if row.sequences_per_s is None else f"{row.sequences_per_s:,.1f}",
            "-" if row.step_age_s is None else f"{duration(row.step_age_s)} ago",
            row.checkpoint or "-",
            row.source,
        ]
        for row in rows
    ]
    return "\n".join(columns([head, *body]))


def all_runs(results: Path) -> list[RunDirectory]:
    """The runs below a results folder, newest first."""
    if not results.is_dir():
        return []
    # os.access, as other people's runs in a shared folder are closed to this user.
    found = [RunDirectory(folder) for folder in results.iterdir() if os.access(folder / "run.yml", os.R_OK)]
    return sorted(found, key=lambda run: run.lockfile.stat().st_mtime, reverse=True)


def cancel(directory: RunDirectory, slurm: Slurm) -> list[str]:
    """Stop what still runs or waits of a run; returns the jobs. Workers write a checkpoint first."""
    active = {status.phase for status in run_status(directory, slurm, time.time()) if status.state in ACTIVE}
    jobs = {number: job for number, job in jobs_of(directory).items() if number in active}
    if queued := [job["job"] for job in jobs.values() if job["backend"] == "slurm"]:
        slurm.cancel(queued)
    for number, job in jobs.items():
        if job["backend"] == "local":
            os.kill(job["submitted"]["pid"], signal.SIGTERM)
        directory.record("cancelled", phase=number, job=job["job"])
    return [job["job"] for job in jobs.values()]


def log_files(directory: RunDirectory, phase: int | None) -> list[Path]:
    """The workers' logs, oldest first; of all phases or of one."""
    folders = [directory.phase(phase)] if phase else directory.phases()
    files = [file for folder in folders if folder.logs.is_dir() for file in folder.logs.glob("*.out")]
    workers = [file for file in files if not file.name.startswith("slurm-")]
    return sorted(workers, key=lambda file: file.stat().st_mtime)


def newest_log(directory: RunDirectory, phase: int | None) -> Path:
    """The log that was written last.

    Raises:
        InputError: there is none yet.
    """
    files = log_files(directory, phase)
    if not files:
        raise InputError(
            f"run {directory.name!r} has no log yet", where=str(directory.root), hint="see: bertjobs status"
        )
    return files[-1]


def follow(directory: RunDirectory, phase: int | None, slurm: Slurm) -> Iterator[str]:
    """The newest log from its beginning and as it grows, then the next one, until no job of the run is active."""
    shown = {file: file.stat().st_size for file in log_files(directory, phase)[:-1]}
    asked_at = -ASK_EVERY_S
    while True:
        ended = False
        if time.monotonic() - asked_at >= ASK_EVERY_S:
            statuses = run_status(directory, slurm, time.time())
            ended = not any(status.state in ACTIVE for status in statuses if phase in (None, status.phase))
            asked_at = time.monotonic()
        for file in log_files(directory, phase):
            with open(file, "rb") as handle:
                handle.seek(shown.get(file, 0))
                new = handle.read()
            shown[file] = shown.get(file, 0) + len(new)
            yield new.decode(errors="replace")
        if ended:
            return
        time.sleep(FOLLOW_POLL_S)
