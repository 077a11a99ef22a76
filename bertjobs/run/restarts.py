"""How the attempts of a chain ended, and whether there may be one more.

An attempt writes its end into the journal, if it can. Where it could not (a node that failed, a kill), the next one
does it, from what Slurm says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CAUSE_OF_SIGNAL = {"SIGUSR2": "time limit", "SIGTERM": "preempted"}
"""What a signal that the worker obeyed stands for, where the chain went on after it."""

CAUSE_OF_STATE = {
    "NODE_FAIL": "node failed",
    "CANCELLED": "cancelled",
    "PREEMPTED": "preempted",
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "BOOT_FAIL": "node failed",
}
"""What a job's state in sacct stands for."""

UNKNOWN = "crashed"
NEED_PROGRESS = ("crashed", "out of memory", "disk full")
"""After these an attempt that begins where the one before began would end as that one did."""


def chain_events(events: Iterable[Mapping[str, Any]], phase: int, chain: str) -> list[Mapping[str, Any]]:
    """The starts and ends of one chain's attempts at a phase, in order; a job that was queued by hand is a chain.

    An end may be followed by an event "explained", in which a later attempt says what Slurm told of it.
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


def cause_by_slurm(state: str) -> str:
    """The cause that a state such as ``NODE_FAIL`` or ``CANCELLED by 0`` stands for; "crashed" where it says little."""
    return CAUSE_OF_STATE.get(state.split()[0] if state.strip() else "", UNKNOWN)


def explanation(events: Sequence[Mapping[str, Any]], state: str) -> str | None:
    """Why Slurm sent the TERM that the last attempt ended by, where ``state``, its word for that end, tells; else
    None."""
    last = events[-1] if events else {}
    if last.get("event") != "ended" or last.get("cause") != "SIGTERM":
        return None
    # An attempt that was killed is requeued by run.sub: only behind a signal does this state say something.
    return {"REQUEUED": "requeued", **CAUSE_OF_STATE}.get(state.split()[0] if state.strip() else "")


def causes(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], str]:
    """Why each attempt, by its job and number, ended: one of `CAUSE_OF_STATE`'s and the worker's own words."""
    found = {}
    for event in events:
        if "cause" in event:
            cause = CAUSE_OF_SIGNAL.get(event["cause"], event["cause"])
            found[event["job"], event["attempt"]] = cause
    return found


def beyond_budget(events: Sequence[Mapping[str, Any]], budgets: Mapping[str, int]) -> str | None:
    """Why there may not be another attempt, in words; None where there may.

    Args:
        events: the chain's, by `chain_events`, the last end included.
        budgets: how many attempts may end by each cause and be followed by another; causes that are not in it count
            as many as they like.
    """
    counts = Counter("node failed" if cause == "unfit nodes" else cause for cause in causes(events).values())
    for cause, count in counts.items():
        if count > budgets.get(cause, count):
            return f"{count} attempts ended by: {cause}; the recipe allows {budgets[cause]} to be followed by another"
    return None


def in_circles(events: Sequence[Mapping[str, Any]], step: int) -> str | None:
    """Why an attempt that begins at ``step`` would end as those before did, in words; None where it need not.

    One attempt that got no checkpoint further is no circle: its checkpoint may have been damaged, or its node bad.
    """
    starts = [event for event in events if event["event"] == "started"][-2:]
    ends = [event["cause"] for event in events if event["event"] == "ended"][-2:]
    if len(starts) < 2 or any(start.get("step", -1) < step for start in starts):
        return None
    if len(ends) < 2 or any(cause not in NEED_PROGRESS for cause in ends):
        return None
    return f"two attempts before began at step {step} too, got no checkpoint further, and ended by: {ends[-1]}"
