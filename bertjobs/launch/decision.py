"""What comes next when an attempt has ended: one decision for batch scripts, this machine, submitit and rehearsals.

`what_next` decides and is pure; the rest reads from a run's directory what it decides by, and records a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE, EXIT_DONE, EXIT_FAILURE
from bertjobs.run.causes import Cause, Then
from bertjobs.run.checkpoints import last_written
from bertjobs.run.directory import RunDirectory
from bertjobs.run.journal import Attempt, read_story
from bertjobs.run.restarts import beyond_budget, chain_attempts


class Next(StrEnum):
    """What comes after an attempt."""

    NEXT_PHASE = "the next phase"
    RESTART = "another attempt"
    ELSEWHERE = "another attempt on other nodes"
    NOTHING_HERE = "nothing from this job"
    STOP = "no other attempt"


@dataclass(frozen=True)
class End:
    """How an attempt ended, as seen by whoever started its ranks.

    Attributes:
        code: exit code of the ranks in the terms of contract 3: 0, 64, 70 or 75.
        told_to_end: whether the job as a whole was told to end: preempted, cancelled, or ctrl-C.
        advanced: whether the attempt wrote a checkpoint.
        step_limit: whether it was to make a limited number of steps (STEPS_THIS_RUN).
        unfit_nodes: names of nodes, separated by commas, that failed the node check; "" for none.
        cause: why, as the journal has it; None if it does not.
    """

    code: int
    told_to_end: bool = False
    advanced: bool = False
    step_limit: bool = False
    unfit_nodes: str = ""
    cause: Cause | None = None


@dataclass(frozen=True)
class Decision:
    """What comes next, and why, in words for the job's log; ``spent_by`` is the cause of the attempts that used up the
    recipe's restarts, if they did."""

    next: Next
    why: str = ""
    spent_by: Cause | None = None


def what_next(end: End, attempts: Sequence[Attempt] = (), budgets: Mapping[str, int] | None = None) -> Decision:
    """What comes after an attempt.

    Another attempt fixes neither bad input nor a failure before a new checkpoint, unless the node check found the nodes
    unfit: then it runs on others. There is none once the recipe's budget of restarts is spent.

    Args:
        end: how it ended.
        attempts: those of its chain, this one included (`bertjobs.run.restarts.chain_attempts`).
        budgets: the recipe's restarts, by the names of `bertjobs.run.causes.Restarts`.
    """
    if end.code == EXIT_DONE:
        return Decision(Next.NEXT_PHASE)
    if end.told_to_end:
        return Decision(Next.NOTHING_HERE, "the job was asked to end")
    if end.code == EXIT_BAD_INPUT:
        return Decision(Next.STOP, "the input must be corrected first")
    if end.step_limit:
        return Decision(Next.STOP, "it made the number of steps that it was asked for (STEPS_THIS_RUN)")
    if end.cause and end.cause.then is Then.STOP:
        return Decision(Next.STOP, end.cause.plain)
    if not end.advanced and not end.unfit_nodes:
        return Decision(Next.STOP, "no checkpoint was written since the job started")
    if refusal := beyond_budget(attempts, budgets or {}):
        return Decision(Next.STOP, refusal.words, refusal.spent_by)
    if end.advanced:
        return Decision(Next.RESTART)
    return Decision(Next.ELSEWHERE, f"unfit nodes: {end.unfit_nodes}")


def contract_code(code: int) -> int:
    """A process's exit code in the terms of contract 3; a process that was killed by a signal has failed."""
    return code if code in (EXIT_DONE, EXIT_BAD_INPUT, EXIT_CONTINUE) else EXIT_FAILURE


def recorded(directory: RunDirectory, phase: int, job: str, attempt: int) -> Attempt:
    """An attempt as the journal has it."""
    return read_story(directory.events()).attempt(phase, job, attempt)


def has_advanced(attempt: Attempt, checkpoints: Path, before: str) -> bool:
    """Whether an attempt wrote a checkpoint: by the journal; or, where that says nothing, as on a full disk or from an
    older worker, by the folder, in which ``before`` was the last one written when the attempt began ("" for none)."""
    return attempt.has_saved or last_written(checkpoints) not in ("", before)


def decide(directory: RunDirectory, attempt: Attempt, chain: str, end: End, budgets: Mapping[str, int]) -> Decision:
    """`what_next` for an attempt of a chain. If none follows because the restarts are used up, the journal says so."""
    decision = what_next(end, chain_attempts(directory.events(), attempt.phase, chain), budgets)
    if decision.spent_by:
        names = {"phase": attempt.phase, "job": attempt.job, "attempt": attempt.number}
        with suppress(OSError):  # even on a full disk, the decision stands
            directory.record("not restarted", why=decision.why, spent_by=decision.spent_by, **names)
    return decision
