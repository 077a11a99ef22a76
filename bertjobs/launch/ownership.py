"""Taking a run for an attempt, or for a command that queues its jobs: with Slurm's word about whoever has it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bertjobs.errors import InputError
from bertjobs.files.lock import process_start
from bertjobs.run.directory import RunDirectory
from bertjobs.run.owner import BEAT_S, Lives, Owner, Owners, process_lives
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.jobs import RUNNING, WAITING
from bertjobs.slurm.refusals import NoAnswer

WAIT_S = 600.0
"""How long a link waits for another job of its own chain to end, which it normally does in seconds."""

LOOK_S = 5.0


def lives_by(slurm: Slurm, candidate: Owner) -> Lives:
    """Whether an owner lives, as ``candidate`` can know it.

    Of one job's attempts only the last can live. Others: by the process if it is on this host, by Slurm's word if it
    gives one. "No answer" is not "none": then the owner's signs of life count.
    """

    def lives(owner: Owner) -> bool | None:
        if owner.scheduler != "slurm":
            return process_lives(owner, candidate.host)
        if owner.job == candidate.job:
            return owner.attempt >= candidate.attempt
        try:
            answer = slurm.ask([owner.job])
        except NoAnswer:
            return None
        job = answer.jobs.get(owner.job)
        if job is None or job.state == "UNKNOWN" or (job.state in WAITING and job.source != "squeue"):
            return None  # for a moment after a start, accounting has an older state
        return job.state in RUNNING

    return lives


def take_for_job(
    owners: Owners,
    candidate: Owner,
    slurm: Slurm,
    *,
    wait_s: float = WAIT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Owner | None:
    """Take the run for a job; a link waits for the end of another job of its chain.

    Returns:
        The owner that is in the way, None if the job may train.

    Raises:
        OSError: the folder cannot be written.
    """
    lives, deadline = lives_by(slurm, candidate), time.monotonic() + wait_s
    while True:
        owner, is_ours = owners.take(candidate, lives)
        if is_ours:
            return None
        if not candidate.chain or owner.chain != candidate.chain or time.monotonic() >= deadline:
            return owner
        sleep(LOOK_S)


class Claim:
    """A run that this process has taken; call `beat` now and then."""

    def __init__(self, owners: Owners, owner: Owner):
        self._owners, self.owner, self._beaten = owners, owner, time.monotonic()

    def beat(self) -> None:
        """Give a sign of life, if one is due."""
        if time.monotonic() - self._beaten >= BEAT_S:
            self._owners.beat(self.owner)
            self._beaten = time.monotonic()


@contextmanager
def claimed(directory: RunDirectory, slurm: Slurm, *, chain: str = "") -> Iterator[Claim]:
    """The run belongs to this process: while it trains it here, or queues jobs for it.

    Raises:
        InputError: somebody else has it.
        OSError: the folder cannot be written.
    """
    host, pid = socket.gethostname(), os.getpid()
    owners = Owners(directory.owners)
    candidate = Owner(f"{host}-{pid}", 0, host, pid, "local", chain, process_start(pid) or "")
    owner, is_ours = owners.take(candidate, lives_by(slurm, candidate))
    if not is_ours:
        raise InputError(
            f"run {directory.name!r} is being trained, or queued, by {owner.words()}",
            where=str(directory.root),
            hint=f"wait, or stop it first: bertjobs cancel {directory.name}",
        )
    try:
        yield Claim(owners, owner)
    finally:
        owners.release(owner)
