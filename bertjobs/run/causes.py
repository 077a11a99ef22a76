"""Why an attempt ended: one table, which errors, the journal, the link, the timeline and the doctor share (contract 3).

An error carries a `Cause`; the worker writes its word into the journal and prints it below the error; whoever decides
or explains reads the word. What other programs say (Slurm's states, torch's and the kernel's messages) is turned into
a `Cause` where it is read.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Any

from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE, EXIT_DONE, EXIT_FAILURE

ABSENT_RANKS = "absent ranks"
"""Name of the field of a hang's error, in logs and journals, that lists the ranks which the others waited for."""
SPENT_BY = "restarts used up by"
"""Name of the field, in the error of an attempt that was not restarted, that gives the cause of those before it."""

ATTEMPT_END = "attempt"
"""Name of the field that marks where each attempt of a job ends in the log that they share; run.sub writes it."""


class Then(StrEnum):
    """What the chain does after an attempt."""

    RESUME = "resume"
    """Another attempt continues from the newest checkpoint, as far as the budgets allow."""
    ELSEWHERE = "elsewhere"
    """Another attempt, on nodes other than the unfit ones."""
    STOP = "stop"
    """No other attempt: there is nothing left to do, or it would end in the same way."""


class Restarts(Enum):
    """What restarts are counted by: the recipe's setting ``restarts_...``, and how a refusal words it."""

    TIME_LIMIT = ("time_limit", "reached the time limit", "at the time limit")
    PREEMPTED = ("preempted", "ended in preemption", "after a preemption")
    NODE_FAILED = ("node_failed", "lost a node", "after a node failure")
    OUT_OF_MEMORY = ("out_of_memory", "ran out of memory", "after running out of memory")
    CRASHED = ("crashed", "crashed", "after a crash")

    def __init__(self, setting: str, verb: str, occasion: str) -> None:
        self.setting, self.verb, self.occasion = setting, verb, occasion


def _row(
    word: str,
    plain: str = "",
    *,
    code: int = EXIT_FAILURE,
    then: Then = Then.RESUME,
    budget: Restarts | None = None,
    needs_progress: bool = False,
    states: tuple[str, ...] = (),
) -> tuple[Any, ...]:
    return word, plain or word, code, then, budget, needs_progress, states


class Cause(StrEnum):
    """Why an attempt ended. The value is the word used in journals, logs and JSON.

    Attributes:
        plain: the same for people, to follow "attempt 2: ".
        exit_code: of a worker that ends for this reason.
        then: what the chain does next.
        budget: what a restart after it counts against; None: no limit.
        needs_progress: whether an attempt that begins where this one began would end in the same way, so that a newer
            checkpoint must exist first.
        states: the states of a Slurm job that mean it.
    """

    plain: str
    exit_code: int
    then: Then
    budget: Restarts | None
    needs_progress: bool
    states: tuple[str, ...]

    def __new__(cls, word: str, *row: Any) -> Cause:
        member = str.__new__(cls, word)
        member._value_ = word
        member.plain, member.exit_code, member.then, member.budget, member.needs_progress, member.states = row
        return member

    # It did what it was asked to.
    DONE = _row("done", code=EXIT_DONE, then=Then.STOP)
    STEPS_THIS_RUN = _row(
        "STEPS_THIS_RUN", "made as many steps as it was asked for (STEPS_THIS_RUN)", code=EXIT_CONTINUE, then=Then.STOP
    )

    # It was asked to stop, and wrote a checkpoint. Only Slurm can say who sent TERM.
    SIGUSR2 = _row(
        "SIGUSR2", "time limit near: stopped with a checkpoint", code=EXIT_CONTINUE, budget=Restarts.TIME_LIMIT
    )
    SIGTERM = _row("SIGTERM", "stopped with a checkpoint", code=EXIT_CONTINUE, budget=Restarts.PREEMPTED)
    SIGHUP = _row("SIGHUP", "its terminal was closed: stopped with a checkpoint", code=EXIT_CONTINUE)
    BAD_SHARD = _row("bad shard", "a shard is missing or altered; the next attempt skips it", code=EXIT_CONTINUE)

    # It was ended from outside, or by something that Slurm monitors.
    TIME_LIMIT = _row(
        "time limit", "killed at the time limit", budget=Restarts.TIME_LIMIT, states=("TIMEOUT", "DEADLINE")
    )
    PREEMPTED = _row("preempted", budget=Restarts.PREEMPTED, states=("PREEMPTED",))
    REQUEUED = _row("requeued", states=("REQUEUED",))
    CANCELLED = _row("cancelled", then=Then.STOP, states=("CANCELLED",))
    NODE_FAILURE = _row("node failure", "a node failed", budget=Restarts.NODE_FAILED, states=("NODE_FAIL", "BOOT_FAIL"))

    # It was refused before training.
    BAD_INPUT = _row("bad input", code=EXIT_BAD_INPUT, then=Then.STOP)
    DAMAGED_SHARD = _row("damaged shard", "a shard is missing or altered", code=EXIT_BAD_INPUT, then=Then.STOP)
    NOT_RESTARTED = _row("not restarted", code=EXIT_BAD_INPUT, then=Then.STOP)
    """Earlier attempts used up the restarts; such an error also names the cause that they ended for."""
    UNFIT_NODE = _row(
        "unfit node", "the node check found a node unfit", then=Then.ELSEWHERE, budget=Restarts.NODE_FAILED
    )

    # It failed.
    GPU_MEMORY = _row("out of GPU memory", budget=Restarts.OUT_OF_MEMORY, needs_progress=True)
    HOST_MEMORY = _row(
        "out of host memory", budget=Restarts.OUT_OF_MEMORY, needs_progress=True, states=("OUT_OF_MEMORY",)
    )
    DISK = _row("disk", "the disk is full, or failed", needs_progress=True)
    HANG = _row("hang", "it hung: no step finished for too long", budget=Restarts.CRASHED, needs_progress=True)
    PORT = _row(
        "ranks cannot join", "the ranks could not reach each other", budget=Restarts.CRASHED, needs_progress=True
    )
    CONTAINER = _row("container", "the container did not start", budget=Restarts.CRASHED, needs_progress=True)
    LAUNCH = _row("not launched", "Slurm could not start the ranks", budget=Restarts.CRASHED, needs_progress=True)
    MODULE_MISSING = _row("module missing", "its Python lacks a module", budget=Restarts.CRASHED, needs_progress=True)
    GRADIENTS = _row(
        "gradients not finite", "its gradients were no longer finite", budget=Restarts.CRASHED, needs_progress=True
    )
    LOST_RANK = _row("lost rank", "a rank died without an error message", budget=Restarts.CRASHED, needs_progress=True)
    CRASHED = _row("crashed", budget=Restarts.CRASHED, needs_progress=True)


_FORMER = {
    "unfit nodes": Cause.UNFIT_NODE,
    "node failed": Cause.NODE_FAILURE,
    "out of memory": Cause.GPU_MEMORY,
    "disk full": Cause.DISK,
}
"""Words of older journals that have since changed."""


def read_cause(word: str, *, by_slurm: bool = False) -> Cause | None:
    """The cause that a word of a journal or a log stands for; None for an unknown one.

    Args:
        word: as it stands there.
        by_slurm: whether a later attempt wrote it, from what Slurm says: its "out of memory" was the host's.
    """
    if word == "out of memory" and by_slurm:
        return Cause.HOST_MEMORY
    try:
        return Cause(word)
    except ValueError:
        return _FORMER.get(word)


_BY_STATE = {state: cause for cause in Cause for state in cause.states}


def cause_of_state(state: str) -> Cause | None:
    """What a job's state in sacct or squeue means for its attempt, such as ``NODE_FAIL`` or ``CANCELLED by 0``; None
    for those that say nothing of why (``FAILED``, ``COMPLETED``, ``UNKNOWN``)."""
    return _BY_STATE.get(state.split()[0]) if state.strip() else None
