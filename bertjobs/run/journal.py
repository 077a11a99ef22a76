"""The attempts of a run, folded from the events of jobs.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Attempt:
    """One start of a worker.

    Attributes:
        number: counts a job's requeues, from 0.
        started_unix_s: seconds since 1970.
        seconds: from the start to its end; where it was killed or still runs, to the last step known of it.
        cause: why it ended ("done", "STEPS_THIS_RUN", a signal's name, ...), or "" where nothing says so.
        exit_code, step: as its end was recorded; None where nothing says so.
        error: the first line of what went wrong, or "".
    """

    phase: int
    job: str
    number: int
    world_size: int
    started_unix_s: float
    seconds: float
    cause: str
    exit_code: int | None
    step: int | None
    error: str


def attempts(events: Iterable[Mapping[str, Any]], step_times: Mapping[int, Sequence[float]]) -> tuple[Attempt, ...]:
    """The attempts in the order of their starts.

    Args:
        events: the journal's lines, in order.
        step_times: by phase, when each step ended, in seconds since 1970.
    """
    starts: list[Mapping[str, Any]] = []
    ends: dict[int, Mapping[str, Any]] = {}  # by the place of the start
    last: dict[int, int] = {}  # by phase: a phase has one worker at a time
    for event in events:
        if event["event"] == "started":
            last[event["phase"]] = len(starts)
            starts.append(event)
        elif event["event"] == "ended" and event["phase"] in last:
            ends.setdefault(last[event["phase"]], event)
    following = _next_starts(starts)
    return tuple(
        _attempt(start, ends.get(place, {}), following[place], step_times.get(start["phase"], ()))
        for place, start in enumerate(starts)
    )


def _next_starts(starts: Sequence[Mapping[str, Any]]) -> list[float]:
    """When the same phase was started again, or infinity."""
    times = []
    for place, start in enumerate(starts):
        later = (other["time_unix_s"] for other in starts[place + 1 :] if other["phase"] == start["phase"])
        times.append(next(later, float("inf")))
    return times


def _attempt(
    start: Mapping[str, Any], end: Mapping[str, Any], next_start: float, step_times: Sequence[float]
) -> Attempt:
    began = start["time_unix_s"]
    seen = [time for time in step_times if began <= time < next_start]
    ended = end.get("time_unix_s", max(seen, default=began))
    # An error is recorded as it was shown: "error: what", then where and hint.
    error = str(end.get("error", "")).strip().split("\n")[0].removeprefix("error: ")
    return Attempt(
        phase=start["phase"],
        job=str(start.get("job", "")),
        number=start.get("attempt", 0),
        world_size=start.get("world_size", 1),
        started_unix_s=began,
        seconds=ended - began,
        cause=str(end.get("cause", "")),
        exit_code=end.get("exit_code"),
        step=end.get("step"),
        error=error,
    )
