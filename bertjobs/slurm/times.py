"""Times as Slurm writes them, and in seconds."""

from __future__ import annotations

import re


def doubled(limit: str) -> str:
    """Twice a time limit of Slurm's, ``1-02:00:00`` or ``30:00``, in minutes; "" for one that is no time."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if not found:
        return ""
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return str(2 * max(1, (days * 24 + hours) * 60 + minutes + (seconds > 0)))


def format_time(seconds: int | None) -> str:
    """A time as Slurm writes it, such as "1-00:00:00" or "4:30:00"; the inverse of `parse_time`."""
    if seconds is None:
        return "infinite"
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{rest // 3600:02}:{clock}" if days else f"{rest // 3600}:{clock}"


_TIME = re.compile(r"(?:(?P<days>[0-9]+)-)?(?P<clock>[0-9]+(?::[0-9]+){0,2})")


def parse_time(text: str) -> int | None:
    """Seconds of one of Slurm's times; None where there is no limit.

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


SIGNAL_LEAD_S = 120.0
"""What run.sub asks of Slurm: ``--signal=USR2@120``."""
