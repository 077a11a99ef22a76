"""What Slurm's commands say when they do not do as asked, as errors. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bertjobs.errors import BertjobsError, InputError

NO_ANSWER = (
    *("Unable to contact", "timed out", "temporarily", "configuration source", "Connection refused"),
    "Problem talking",
)
"""Parts of what Slurm's commands print when no daemon answers them."""

_LIMIT = re.compile(r"(Max|Grp)Submit")


class NotNow(BertjobsError):
    """Slurm cannot do it at the moment: no daemon answers, or the user has as many jobs as a limit allows."""


class NoAnswer(NotNow):
    """A command of Slurm's is missing, takes too long, or reaches no daemon."""


@dataclass(frozen=True)
class Hints:
    """What to do next when sbatch refuses a job.

    Attributes:
        no_answer: when the cluster cannot be reached.
        refused: when it does not accept the job.
        limit: when the user already has too many jobs; "" for a caller that cannot wait for room: as ``refused``.
    """

    no_answer: str = "nothing was queued; see `scontrol ping`, or train on this machine with --backend local"
    refused: str = "nothing was queued; give what the cluster asks for with --partition, --account, --time or --sbatch"
    limit: str = ""


RUN_HINTS = Hints()
"""For the jobs of a run."""


def is_no_answer(text: str) -> bool:
    """Whether a command's complaint says that it reached no daemon."""
    return any(sign in text for sign in NO_ANSWER)


def refusal(complaint: str, hints: Hints = RUN_HINTS, where: str | None = None) -> BertjobsError:
    """sbatch's complaint as an error: `NoAnswer`, `NotNow` or InputError."""
    reason = complaint.strip() or "no reason given"
    if hints.limit and _LIMIT.search(reason):
        return NotNow(f"sbatch cannot queue more jobs: {reason}", where=where, hint=hints.limit)
    if is_no_answer(reason):
        return NoAnswer(f"sbatch could not reach the cluster: {reason}", where=where, hint=hints.no_answer)
    return InputError(f"sbatch refused: {reason}", where=where, hint=hints.refused)
