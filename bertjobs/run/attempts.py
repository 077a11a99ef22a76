"""How the attempts of a job ended, and whether there may be one more.

An attempt writes its end into the journal, if it can. Where it could not (a node that failed, a kill), the next one
does it, from what Slurm says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CAUSE_OF_SIGNAL = {"SIGUSR2": "time limit", "SIGTERM": "preempted"}
"""What a signal that the worker obeyed stands for, where the same job was started again after it."""

CAUSE_OF_STATE = {
    "NODE_FAIL": "node failed",
    "PREEMPTED": "preempted",
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "BOOT_FAIL": "node failed",
}
"""What a job's state in sacct stands for."""

UNKNOWN = "crashed"
NEED_PROGRESS = ("crashed", "out of memory")
"""After these an attempt that begins where the one before began would end as that one did."""


def own_events(events: Iterable[Mapping[str, Any]], phase: int, job: str) -> list[Mapping[str, Any]]:
    """The starts and ends of one job's attempts at a phase, in order."""
    return [
        event
        for event in events
        if event["event"] in ("started", "ended") and event.get("phase") == phase and event.get("job") == job
    ]


def is_open(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last attempt of `own_events` has written no end."""
    return bool(events) and events[-1]["event"] == "started"


def cause_by_slurm(state: str) -> str:
    """The cause that a state such as ``NODE_FAIL`` or ``CANCELLED by 0`` stands for; "crashed" where it says little."""
    return CAUSE_OF_STATE.get(state.split()[0] if state.strip() else "", UNKNOWN)


def refusal(events: Sequence[Mapping[str, Any]], budgets: Mapping[str, int], step: int) -> str | None:
    """Why there may not be another attempt, in words; None where there may.

    Args:
        events: the job's, by `own_events`, the last end included.
        budgets: how many attempts may end by each cause and be followed by another; causes that are not in it count
            as many as they like.
        step: where this attempt would begin.
    """
    causes = Counter(CAUSE_OF_SIGNAL.get(event["cause"], event["cause"]) for event in events if "cause" in event)
    for cause, count in causes.items():
        if count > budgets.get(cause, count):
            return f"{count} attempts ended by: {cause}; the recipe allows {budgets[cause]} to be followed by another"
    ends = [event for event in events if event["event"] == "ended"]
    starts = [event for event in events if event["event"] == "started"]
    if ends and starts and ends[-1]["cause"] in NEED_PROGRESS and step <= starts[-1].get("step", -1):
        return (
            f"the attempt before began at step {step} too, got no checkpoint further, and ended by: {ends[-1]['cause']}"
        )
    return None
