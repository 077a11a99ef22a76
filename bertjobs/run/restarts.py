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
from bertjobs.run.causes import SPENT_BY, Cause, cause_of_state, read_cause
from bertjobs.run.directory import RunDirectory
from bertjobs.wording import counted


@dataclass(frozen=True)
class Refusal:
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


def chain_events(events: Iterable[Mapping[str, Any]], phase: int, chain: str) -> list[Mapping[str, Any]]:
    """The starts and ends of one chain's attempts at a phase, in order; a job that was queued by hand is its own chain.

    An end may be followed by an event "explained", in which a later attempt records what Slurm said about it.
    """
    return [
        event
        for event in events
        if event["event"] in ("started", "ended", "explained")
        and event.get("phase") == phase
        and event.get("chain", event.get("job")) == chain
    ]


def is_open(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last attempt of `chain_events` has written no end."""
    return bool(events) and events[-1]["event"] == "started"


def cause_by_slurm(state: str) -> Cause:
    """The cause that a state such as ``NODE_FAIL`` or ``CANCELLED by 0`` stands for; "crashed" where it says little."""
    cause = cause_of_state(state)
    # run.sub requeues an attempt that was killed: that state says something only after a signal.
    return Cause.CRASHED if cause in (None, Cause.REQUEUED) else cause


def explanation(events: Sequence[Mapping[str, Any]], state: str) -> Cause | None:
    """Why Slurm sent the TERM that ended the last attempt, if ``state``, Slurm's word for that end, says so; else
    None."""
    last = events[-1] if events else {}
    if last.get("event") != "ended" or cause_in(last) is not Cause.SIGTERM:
        return None
    return cause_of_state(state)


def complete_journal(directory: RunDirectory, phase: int, chain: str, state: str = "") -> None:
    """Before another attempt: give the chain's last one its end, if it could not write it, or say why it was sent TERM.

    Args:
        state: Slurm's word for that end, such as ``NODE_FAIL``; "" if Slurm was not asked, or does not say.
    """
    events = chain_events(directory.events(), phase, chain)
    if not events:
        return
    names = {**_attempt_of(events), "chain": chain, "told_by": "sacct" if state else ""}
    if is_open(events):
        directory.record("ended", cause=cause_by_slurm(state), exit_code=None, **names)
    elif cause := explanation(events, state):
        directory.record("explained", cause=cause, **names)


def close_attempt(directory: RunDirectory, phase: int, chain: str, code: int, *, source: str) -> None:
    """After an attempt: give it an end in the journal if it has none, since its ranks were killed before one of them
    could write it.

    Args:
        code: exit code of the ranks.
        source: who reports it.
    """
    events = chain_events(directory.events(), phase, chain)
    if is_open(events):
        cause = Cause.BAD_INPUT if code == EXIT_BAD_INPUT else Cause.CRASHED
        directory.record("ended", cause=cause, exit_code=code, **_attempt_of(events), chain=chain, told_by=source)


def _attempt_of(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: events[-1][name] for name in ("phase", "job", "attempt")}


def cause_in(event: Mapping[str, Any]) -> Cause:
    """The cause that an event of the journal has: "crashed" if its word is unknown."""
    return read_cause(str(event.get("cause", "")), by_slurm=bool(event.get("told_by"))) or Cause.CRASHED


def causes(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], Cause]:
    """Why each attempt ended, by its job and number; those that were not begun are left out."""
    ended = {}
    for event in events:
        if "cause" in event and cause_in(event) is not Cause.NOT_RESTARTED:
            ended[event["job"], event["attempt"]] = cause_in(event)
    return ended


def beyond_budget(events: Sequence[Mapping[str, Any]], budgets: Mapping[str, int]) -> Refusal | None:
    """Why there may not be another attempt; None if there may.

    Args:
        events: the chain's, by `chain_events`, the last end included.
        budgets: how many restarts each budget's causes allow, by the name of the budget's setting; those that are not
            in it have no limit.
    """
    ends = list(causes(events).values())
    counts = Counter(cause.budget for cause in ends if cause.budget)
    for budget, count in counts.items():
        allowed = budgets.get(budget.setting, count)
        if count > allowed:
            last = [cause for cause in ends if cause.budget is budget][-1]
            attempts, restarts = _counted_or_none(count, "attempt"), _counted_or_none(allowed, "restart")
            return Refusal(f"{attempts} {budget.verb}; the recipe allows {restarts} {budget.occasion}", last)
    return None


def _counted_or_none(count: int, noun: str) -> str:
    return counted(count, noun) if count else f"no {noun}s"


def no_progress(events: Sequence[Mapping[str, Any]], step: int) -> Refusal | None:
    """Why an attempt that begins at ``step`` would end as those before it did; None if it need not.

    A single attempt without a newer checkpoint is not enough: its checkpoint may have been damaged, or its node bad.
    An attempt that begins below those before it does so because the checkpoints above are damaged.
    """
    starts = [event for event in events if event["event"] == "started"][-2:]
    ends = [cause for event in events if event["event"] == "ended"
            if (cause := cause_in(event)) is not Cause.NOT_RESTARTED][-2:]  # fmt: skip
    if len(starts) < 2 or any(start.get("step", -1) != step for start in starts):
        return None
    if len(ends) < 2 or not all(cause.needs_progress for cause in ends):
        return None
    words = f"the two attempts before it also began at step {step} and wrote no newer checkpoint; the last one ended"
    return Refusal(f"{words}: {ends[-1].plain}", ends[-1])
