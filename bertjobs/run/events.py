"""The events of jobs.jsonl as all readers get them: what a damaged or edited journal has in place of one is left out.

An event has a name and a time. What it says besides is of the types below; a field of another type is as good as
absent. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Event = dict[str, Any]

LAST_UNIX_S = 253402300799
"""The end of the year 9999: times beyond cannot be written as dates."""
LARGEST_WHOLE = 2**53
"""Whole numbers up to this one are exact in every program that reads JSON."""


def is_time(value: Any) -> bool:
    """Whether a value is a time in seconds since 1970."""
    return type(value) in (int, float) and 0 <= value <= LAST_UNIX_S


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0 on, such as a step or an attempt."""
    return type(value) is int and 0 <= value <= LARGEST_WHOLE


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_code(value: Any) -> bool:
    return value is None or (type(value) is int and abs(value) < LARGEST_WHOLE)


def _is_error(value: Any) -> bool:
    return isinstance(value, str | dict)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("job", "backend", "scheduler", "chain", "host", "node"), _is_text),
    **dict.fromkeys(("cause", "told_by", "why", "spent_by"), _is_text),
    **dict.fromkeys(("phase", "attempt", "step", "world_size", "pid", "damaged_step", "rank"), is_count),
    "exit_code": _is_code,
    "error": _is_error,
    **dict.fromkeys(("spare", "by_hand"), _is_flag),
}
"""The fields that readers use, and what each must be."""

OF_AN_ATTEMPT = ("started", "checkpoint", "slow rank", "dealt", "ended", "explained", "not restarted")
"""The events that are about one attempt: they name a job; without a number it is the job's first."""


def events_in(lines: Iterable[Any]) -> list[Event]:
    """The events among the lines of a journal, in order, with those of their fields that have the right types."""
    return [event for line in lines if (event := _event(line)) is not None]


def _event(line: Any) -> Event | None:
    if not isinstance(line, dict) or not _is_text(line.get("event")) or not is_time(line.get("time_unix_s")):
        return None
    event = {name: value for name, value in line.items() if name not in _FIELDS or _FIELDS[name](value)}
    if isinstance(event.get("error"), dict):
        event["error"] = {name: value for name, value in event["error"].items() if type(value) in (str, int, float)}
    if event["event"] in OF_AN_ATTEMPT:
        if not event.get("job"):
            return None
        event.setdefault("attempt", 0)
    return event
