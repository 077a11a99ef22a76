"""How the attempts of a chain ended, and whether there may be another.

An attempt writes its end into the journal, if it can. If it could not (its node failed, it was killed), the next one
writes it, from what Slurm says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertjobs.errors import EXIT_BAD_INPUT, InputError
from bertjobs.run.causes import SPENT_BY, Cause, cause_of_state
from bertjobs.run.directory import RunDirectory
from bertjobs.run.journal import Attempt, read_story
from bertjobs.wording import counted


@dataclass(frozen=True)
class RestartRefusal:
    """Why there may not be another attempt: ``words``, and the cause of the attempts that used up the restarts."""

    words: str
    spent_by: Cause


class NotRestartedError(InputError):
    """An attempt that was not begun because of how those before it ended: ``spent_by`` is their cause."""

    def __init__(self, what: str, *, spent_by: Cause, where: str | None = None, hint: str | None = None):
        self.spent_by = spent_by
        super().__init__(what, where=where, hint=hint, cause=Cause.NOT_RESTARTED)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.what, self.spent_by, self.where, self.hint)

    def facts(self) -> dict[str, str]:
        """As for other errors, and what used up the restarts."""
        return {**super().facts(), SPENT_BY: self.spent_by}


def _rebuilt(what: str, spent_by: Cause, where: str | None, hint: str | None) -> NotRestartedError:
    return NotRestartedError(what, spent_by=spent_by, where=where, hint=hint)


def chain_attempts(events: Iterable[Mapping[str, Any]], phase: int, chain: str) -> tuple[Attempt, ...]:
    """One chain's attempts at a phase that began or ended, in order; a job that was queued by hand is its own chain."""
    attempts = (attempt for attempt in read_story(events).attempts if (attempt.phase, attempt.chain) == (phase, chain))
    return tuple(attempt for attempt in attempts if attempt.started_unix_s is not None or attempt.has_ended)


def is_open(attempts: Sequence[Attempt]) -> bool:
    """Whether the last attempt has written no end."""
    return bool(attempts) and not attempts[-1].has_ended


def cause_by_slurm(state: str) -> Cause:
    """The cause that a state such as ``NODE_FAIL`` or ``CANCELLED by 0`` stands for; "crashed" where it says little."""
    cause = cause_of_state(state)
    # run.sub requeues an attempt that was killed: that state says something only after a signal.
    return Cause.CRASHED if cause in (None, Cause.REQUEUED) else cause


def explanation(attempts: Sequence[Attempt], state: str) -> Cause | None:
    """Why Slurm sent the TERM that ended the last attempt, if ``state``, Slurm's word for that end, says so, and the
    journal does not yet; else None."""
    last = attempts[-1] if attempts else None
    if last is None or last.cause is not Cause.SIGTERM or last.explained:
        return None
    return cause_of_state(state)


def complete_journal(directory: RunDirectory, phase: int, chain: str, state: str = "") -> None:
    """Before another attempt: give the chain's last one its end, if it could not write it, or say why it was sent TERM.

    Args:
        state: Slurm's word for that end, such as ``NODE_FAIL``; "" if Slurm was not asked, or does not say.
    """
    attempts = chain_attempts(directory.events(), phase, chain)
    if not attempts:
        return
    names = {**_names(attempts[-1]), "told_by": "sacct" if state else ""}
    if is_open(attempts):
        directory.record("ended", cause=cause_by_slurm(state), exit_code=None, **names)
    elif cause := explanation(attempts, state):
        directory.record("explained", cause=cause, **names)


def close_attempt(directory: RunDirectory, phase: int, chain: str, code: int, *, source: str) -> None:
    """After an attempt: give it an end in the journal if it has none, since its ranks were killed before one of them
    could write it.

    Args:
        code: exit code of the ranks.
        source: who reports it.
    """
    attempts = chain_attempts(directory.events(), phase, chain)
    if is_open(attempts):
        cause = Cause.BAD_INPUT if code == EXIT_BAD_INPUT else Cause.CRASHED
        directory.record("ended", cause=cause, exit_code=code, **_names(attempts[-1]), told_by=source)


def _names(attempt: Attempt) -> dict[str, Any]:
    return {"phase": attempt.phase, "job": attempt.job, "attempt": attempt.number, "chain": attempt.chain}


def beyond_budget(attempts: Sequence[Attempt], budgets: Mapping[str, int]) -> RestartRefusal | None:
    """Why there may not be another attempt; None if there may.

    Args:
        attempts: the chain's, by `chain_attempts`, the one that has just ended included.
        budgets: how many restarts each budget's causes allow, by the name of the budget's setting; those that are not
            in it have no limit.
    """
    ends = [attempt.counts_as for attempt in attempts if attempt.counts_as]
    counts = Counter(cause.budget for cause in ends if cause.budget)
    for budget, count in counts.items():
        allowed = budgets.get(budget.setting, count)
        if count > allowed:
            last = [cause for cause in ends if cause.budget is budget][-1]
            made, restarts = _counted_or_none(count, "attempt"), _counted_or_none(allowed, "restart")
            return RestartRefusal(f"{made} {budget.verb}; the recipe allows {restarts} {budget.occasion}", last)
    return None


def _counted_or_none(count: int, noun: str) -> str:
    return counted(count, noun) if count else f"no {noun}s"


def no_progress(attempts: Sequence[Attempt], step: int) -> RestartRefusal | None:
    """Why an attempt that begins at ``step`` would end as those of its chain before it did; None if it need not.

    A single attempt without a newer checkpoint is not enough: its checkpoint may have been damaged, or its node bad.
    An attempt that begins below those before it does so because the checkpoints above are damaged.
    """
    starts = [attempt.first_step for attempt in attempts if attempt.started_unix_s is not None][-2:]
    ends = [attempt.counts_as for attempt in attempts if attempt.counts_as][-2:]
    if starts != [step, step] or len(ends) < 2 or not all(cause.needs_progress for cause in ends):
        return None
    words = f"the two attempts before it also began at step {step} and wrote no newer checkpoint; the last one ended"
    return RestartRefusal(f"{words}: {ends[-1].plain}", ends[-1])
