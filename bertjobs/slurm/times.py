"""Times as Slurm writes them, and in seconds."""

from __future__ import annotations

import math
import re
import time

SCRIPT_LEAD_S = 60
"""The lead for a job of which only the batch script is signalled, which merely ends what it watches; Slurm may signal
up to a minute earlier."""

_TIME = re.compile(r"(?:(?P<days>[0-9]+)-)?(?P<clock>[0-9]+(?::[0-9]+){0,2})")


def parse_time(text: str) -> int | None:
    """Seconds of one of Slurm's times; None if there is no limit.

    The forms are those of ``sbatch --time``: minutes, minutes:seconds, hours:minutes:seconds, days-hours,
    days-hours:minutes, days-hours:minutes:seconds; 0, infinite or unlimited. Raises ValueError for any other.
    """
    if text.strip().lower() in ("infinite", "unlimited", "-1"):
        return None
    match = _TIME.fullmatch(text.strip())
    if not match:
        raise ValueError(f"not a time as Slurm writes it: {text!r}")
    clock = [int(part) for part in match["clock"].split(":")]
    units = (60, 1) if match["days"] is None and len(clock) < 3 else (3600, 60, 1)
    seconds = sum(number * unit for number, unit in zip(clock, units, strict=False))
    return int(match["days"] or 0) * 86400 + seconds or None


def limit_s(text: str) -> float:
    """A time limit in seconds, infinite for none; raises ValueError as `parse_time` does."""
    seconds = parse_time(text)
    return math.inf if seconds is None else float(seconds)


def format_time(seconds: int | None) -> str:
    """A time as Slurm writes it, such as "1-00:00:00" or "4:30:00"; the inverse of `parse_time`."""
    if seconds is None:
        return "infinite"
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{rest // 3600:02}:{clock}" if days else f"{rest // 3600}:{clock}"


def minutes(seconds: float) -> float:
    """A time in whole minutes, rounded up as Slurm does; infinite stays infinite."""
    return seconds if math.isinf(seconds) else math.ceil(seconds / 60)


def doubled(limit: str) -> str:
    """Twice a time limit as Slurm writes it, in minutes; "" for none, and for what is not a time."""
    try:
        seconds = parse_time(limit)
    except ValueError:
        return ""
    return "" if seconds is None else str(2 * int(minutes(seconds)))


def unix_s(text: str) -> float | None:
    """A date as Slurm writes it with ``SLURM_TIME_FORMAT=%s``; None for ``Unknown`` and ``N/A``."""
    return float(text) if text.isdigit() and int(text) else None


def date_text(unix_s: float) -> str:
    """Seconds since 1970 as a person reads them here: ``2026-11-21 18:28``."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))
