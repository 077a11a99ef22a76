"""Stopping a run: all its queued and running jobs, so that none is left to start later."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress

from bertjobs.errors import BertjobsError, InputError
from bertjobs.launch.local import STOP_ONE
from bertjobs.launch.watch.status import read_run, status_of
from bertjobs.launch.watch.timeline import Link
from bertjobs.run.directory import RunDirectory
from bertjobs.run.study import Study
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.jobs import RUNNING
from bertjobs.slurm.shell import quote

PATIENCE_S = 15.0
PAUSE_S = 1.0


def in_order(links: Sequence[Link]) -> list[Link]:
    """The active ones, in the order in which to cancel them: queued jobs before running ones, or else the end of one
    job would start the next; spares first."""
    active = [link for link in links if link.is_active]
    return sorted(active, key=lambda link: (link.state in RUNNING, not link.spare))


def active_links(directory: RunDirectory, slurm: Slurm) -> list[Link]:
    """A run's queued and running jobs, in the order in which to cancel them.

    The journal names them; the queue also has, by their names, those that did not get into the journal.

    Raises:
        BertjobsError: Slurm gave no answer.
    """
    files = read_run(directory)
    run = files.spec.run if files.spec else directory.name
    named = slurm.jobs_of_run(run, directory.root) if slurm.present else {}
    answer = slurm.ask([*files.on_slurm, *(job for job in named if job not in files.story.jobs)])
    if answer.silence:
        raise BertjobsError(
            f"Slurm does not say which jobs are queued or running: {answer.silence}",
            where=f"run {run}",
            hint="nothing was cancelled; see `scontrol ping`, and try again",
        )
    links = list(status_of(files, answer, time.time()).links)
    first = files.undone[0] if files.undone else next((phase.phase for phase in reversed(files.phases)), 1)
    for job, name in named.items():
        if job not in files.story.jobs and job in answer.jobs:
            phase = name.removeprefix(f"{run}-phase")
            number = int(phase) if phase.isdecimal() else first
            links.append(Link(job, "slurm", number, spare=not phase.isdecimal(), state=answer.jobs[job].state))
    return in_order(links)


def cancel(directory: RunDirectory, slurm: Slurm, patience_s: float = PATIENCE_S) -> list[str]:
    """Cancel a run's queued and running jobs; returns them. Workers write a checkpoint first.

    Looks again until none is left, for ``patience_s`` seconds at most: a running link queues a follower if it sees
    none, and that would continue the run.

    Raises:
        InputError: it runs on another machine.
        BertjobsError: Slurm refused, or gave no answer.
    """
    return _cancelled([directory], slurm, patience_s, STOP_ONE)[directory.name]


def cancel_study(study: Study, slurm: Slurm, patience_s: float = PATIENCE_S) -> dict[str, list[str]]:
    """`cancel` for all runs of a study at once, of which then none begins on this machine; by run, the jobs that were
    cancelled."""
    return _cancelled(study.directories, slurm, patience_s, signal.SIGTERM)


def _cancelled(
    directories: Sequence[RunDirectory], slurm: Slurm, patience_s: float, to_study: signal.Signals
) -> dict[str, list[str]]:
    """The jobs of these runs that were cancelled, by run; ``to_study``: the signal for a study's launcher here."""
    cancelled: dict[str, list[str]] = {directory.name: [] for directory in directories}
    deadline = time.monotonic() + patience_s
    while active := {directory: links for directory in directories if (links := active_links(directory, slurm))}:
        for directory, links in active.items():
            before = cancelled[directory.name]
            _stop(directory, [link for link in links if link.job not in before], slurm, to_study)
            before += [link.job for link in links if link.job not in before]
        is_local = all(link.backend == "local" for links in active.values() for link in links)
        if time.monotonic() >= deadline or is_local:
            break
        time.sleep(min(PAUSE_S, patience_s))
    for directory in directories:
        if not cancelled[directory.name]:
            _check_elsewhere(directory)
    return cancelled


def _stop(directory: RunDirectory, links: Sequence[Link], slurm: Slurm, to_study: signal.Signals) -> None:
    """End these jobs, and say so in the journal twice: before, since a link that ends without that entry hands its work
    on to another; and after, since Slurm may refuse."""
    for link in links:
        _record(directory, "cancelling", link)
    if queued := [link.job for link in links if link.backend != "local"]:
        slurm.cancel(queued)
    for link in links:
        if link.backend == "local":
            os.kill(link.pid, to_study if link.study else signal.SIGTERM)
        _record(directory, "cancelled", link)


def _record(directory: RunDirectory, event: str, link: Link) -> None:
    """Write an event to the journal; if that is damaged, the job is cancelled all the same."""
    with suppress(OSError):
        directory.record(event, phase=link.phase, job=link.job)


def _check_elsewhere(directory: RunDirectory) -> None:
    """InputError if a local job was started on another machine and has not ended."""
    for job in read_run(directory).story.jobs.values():
        has_ended = any(attempt.has_ended for attempt in job.attempts)
        if job.backend == "local" and job.host not in ("", socket.gethostname()) and not has_ended:
            raise InputError(
                f"job {job.id} was started on {job.host}, and nothing in the run's folder says that it has ended",
                where=str(directory.root),
                hint=f"cancel it there: ssh {job.host} bertjobs cancel {quote(str(directory.root))}",
            )
