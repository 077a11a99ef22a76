"""sbatch without an answer: the controller may have got the job and queued it all the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from bertjobs.errors import BertjobsError
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.refusals import NoAnswer

APPEARS_S = 30.0
"""How long a job may take to appear in the queue after sbatch has given up waiting for an answer."""


class UnansweredError(BertjobsError):
    """Nobody knows whether a job was queued."""


def queued_without_answer(error: NoAnswer, directory: RunDirectory, slurm: Slurm, known: Collection[str]) -> list[str]:
    """The jobs of a run that sbatch queued although it ended with ``error``; [] for none.

    Args:
        known: jobs of the run that were in the queue before.

    Raises:
        UnansweredError: the queue does not answer either.
    """
    try:
        return appeared(lambda: [id for id in slurm.jobs_of_run(directory.name, directory.root) if id not in known])
    except NoAnswer as silence:
        raise UnansweredError(
            f"{error.what}, and the queue cannot be read either: the job may or may not be in it",
            where=error.where,
            hint=f"later: bertjobs cancel {directory.name}, which also finds a job that nobody knows of, then "
            f"bertjobs resume {directory.name}",
        ) from silence


def appeared(look: Callable[[], list[str]]) -> list[str]:
    """The jobs that ``look`` sees in the queue, now or within `APPEARS_S` seconds; [] for none.

    Raises:
        NoAnswer: squeue does not answer in that time.
    """
    deadline = time.monotonic() + APPEARS_S
    while True:
        silence = None
        try:
            jobs = look()
        except NoAnswer as error:
            jobs, silence = [], error
        if jobs:
            return jobs
        if time.monotonic() >= deadline:
            if silence is not None:
                raise silence
            return []
        time.sleep(APPEARS_S / 6)
