"""What Slurm's commands say when they do not do as asked, as errors. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bertjobs.errors import BertjobsError, InputError

NO_ANSWER = (
    *("Unable to contact", "timed out", "temporarily", "configuration source", "Connection refused"),
    *("Problem talking", "Munge ", "uthentication", "credential"),
)
"""Parts of what Slurm's commands print when no daemon answers them, or none believes who asks."""

_UNTRUSTED = re.compile(r"Munge |uthentication|credential")
_UNTRUSTED_HINT = (
    "munge does not answer here, or its key or the clock differs from the controller's: try `munge -n | unmunge`, and "
    "tell the cluster's admin"
)

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
        known: part of sbatch's complaint -> what to do about it, instead of ``refused``.
    """

    no_answer: str = "nothing was queued; see `scontrol ping`, or train on this machine with --backend local"
    refused: str = "nothing was queued; give what the cluster asks for with --partition, --account, --time or --sbatch"
    limit: str = ""
    known: Mapping[str, str] = field(default_factory=dict)

    def about(self, complaint: str) -> str:
        """What to do about a job that sbatch does not accept."""
        return next((hint for part, hint in self.known.items() if part in complaint), self.refused)


RUN_HINTS = Hints(
    known={
        "Invalid account": "give one of yours with --account: sacctmgr show associations user=$USER",
        "nvalid partition": "give one with --partition: sinfo -s",
        "time limit is invalid": "give less with --time: sinfo -o '%P %l' shows each partition's limit",
        "nvalid generic resource": "ask for GPUs that nodes have, with --gpus N or TYPE:N: sinfo -o '%P %G'",
        "node configuration is not available": "no node has all that is asked for: sinfo -o '%P %D %c %m %G'",
        "Memory specification": "no node has that much memory: sinfo -o '%P %m'; --sbatch mem=0 asks for all of a node",
        "Node count specification invalid": "the partition allows fewer nodes: sinfo -o '%P %D %s'",
        "node not available (down, drained": "its nodes are out of service: sinfo -R",
        "accounting/QOS policy": "a limit of your account or QOS: sacctmgr show associations user=$USER",
    }
)
"""For the jobs of a run."""


def is_no_answer(text: str) -> bool:
    """Whether a command's complaint says that it reached no daemon."""
    return any(sign in text for sign in NO_ANSWER)


def silence_hint(text: str, otherwise: str) -> str:
    """What to do about a complaint for which `is_no_answer` holds; ``otherwise`` where it is only that nobody
    answers."""
    return _UNTRUSTED_HINT if _UNTRUSTED.search(text) else otherwise


def refusal(complaint: str, hints: Hints = RUN_HINTS, where: str | None = None) -> BertjobsError:
    """sbatch's complaint as an error: `NoAnswer`, `NotNow` or InputError."""
    reason = complaint.strip() or "no reason given"
    if hints.limit and _LIMIT.search(reason):
        return NotNow(f"sbatch cannot queue more jobs: {reason}", where=where, hint=hints.limit)
    if is_no_answer(reason):
        hint = silence_hint(reason, hints.no_answer)
        return NoAnswer(f"sbatch could not reach the cluster: {reason}", where=where, hint=hint)
    return InputError(f"sbatch refused: {reason}", where=where, hint=hints.about(reason))
