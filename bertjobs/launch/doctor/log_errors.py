"""The errors in logs: the rank and text of each, and the cause that it names or points to.

An error of ours names its cause in a field of its own. Patterns are for what other programs print. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bertjobs.errors import CAUSE
from bertjobs.run.causes import ABSENT_RANKS, ATTEMPT_END, SPENT_BY, Cause, read_cause
from bertjobs.run.foreign import BEFORE_PYTHON, foreign_cause

LINE = 240  # characters of an evidence line
ERROR_LINES = 6

_RANK = re.compile(r"rank (\d+): ")
_BEGIN = re.compile(
    r"error: |Traceback \(most recent call last\):|Fatal Python error: |Timeout \(\d+:\d\d:\d\d"
    rf"|{BEFORE_PYTHON}|\S*python[\d.]*: (No module named |Error while finding module )"  # Python's own, for -m
)
_SLURM = re.compile(r"(slurmstepd|srun|slurmd|pyxis)\b[^:]*: ")
_ANONYMOUS = ("Fatal Python error", "Timeout (")  # faulthandler names no rank
_FIELD = re.compile(rf"  ({CAUSE}|{SPENT_BY}|{ABSENT_RANKS}): (.+)")
_ATTEMPT_END = re.compile(rf"  {ATTEMPT_END}: \S+-(\d+), code (\d+)")


@dataclass(frozen=True)
class LogError:
    """An error in a log.

    Attributes:
        rank: the one that printed it; None for what Slurm, a container or a dying process prints.
        task: of what Slurm prints, the task that srun's label names; None without a label, or for task 0.
        lines: its text, without the fields.
        fields: the fields meant for programs, by name; {} for what other programs print.
    """

    rank: int | None
    lines: tuple[str, ...]
    fields: Mapping[str, str] = field(default_factory=dict)
    task: int | None = None

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def cause(self) -> Cause | None:
        """The cause that it names, else the one that it points to; None if there is neither."""
        if (named := read_cause(self.fields.get(CAUSE, ""))) is not None:
            return named
        cause = foreign_cause(self.text)
        if cause is None and self.text.startswith("Fatal Python error"):
            return Cause.CRASHED
        # What a rank says about a container comes from inside it, unless its Python has not started.
        is_inside = self.rank is not None and re.match(BEFORE_PYTHON, self.text) is None
        return None if cause is Cause.CONTAINER and is_inside else cause

    @property
    def spent_by(self) -> Cause | None:
        """If it says that an attempt was not restarted: the cause of those before."""
        return read_cause(self.fields.get(SPENT_BY, ""))

    @property
    def absent_ranks(self) -> tuple[int, ...]:
        """If it says that the run hung: the ranks that the others waited for."""
        return tuple(int(rank) for rank in re.findall(r"\d+", self.fields.get(ABSENT_RANKS, "")))


@dataclass
class _Open:
    """An error that may have more lines. ``kind``: "error", "traceback", "exception" (after the line that names it) or
    "slurm"; ``task`` as in `LogError`."""

    rank: int | None
    kind: str
    lines: list[str]
    fields: dict[str, str]
    task: int | None = None

    def takes(self, text: str) -> bool:
        """Take a line if it belongs to this error; whether it does."""
        if self.kind == "slurm":
            return False
        if entry := _FIELD.fullmatch(text):
            self.fields[entry[1]] = entry[2]
        elif self.kind == "exception":  # its message may have more lines, until its fields
            return not self.fields and not text.startswith("warning: ")
        elif text[:1].isspace():
            self.lines.append(text.rstrip())
        elif self.kind == "traceback" and text:
            self.kind = "exception"
            self.lines.append(text.rstrip())
        else:
            return False
        return True


def errors_in(lines: Iterable[str]) -> tuple[LogError, ...]:
    """The errors in a log that all ranks write: rank 0's lines do not name it, an error's first line of others does.

    Adjacent lines of Slurm and pyxis about one task are one error.
    """
    errors: list[_Open] = []
    newest: _Open | None = None  # takes the lines that name no rank
    by_rank: dict[int, _Open] = {}
    for line in lines:
        named = _RANK.match(line)
        text = line[named.end() :] if named else line
        if _SLURM.match(text):
            task = int(named[1]) if named else None
            if newest is None or newest.kind != "slurm" or newest.task != task:
                newest = _Open(None, "slurm", [], {}, task)
                errors.append(newest)
            newest.lines.append(text.rstrip())
        elif _BEGIN.match(text):
            rank = None if text.startswith(_ANONYMOUS) else int(named[1]) if named else 0
            newest = _Open(rank, "error" if text.startswith("error: ") else "traceback", [text.rstrip()], {})
            errors.append(newest)
            if rank is not None:
                by_rank[rank] = newest
        elif named:
            owner = by_rank.get(int(named[1]))
            if owner is not None and not owner.takes(text):
                del by_rank[int(named[1])]
        elif newest is not None and not newest.takes(text):
            newest = None
    return tuple(LogError(error.rank, tuple(error.lines), error.fields, error.task) for error in errors)


def batch_parts(lines: Sequence[str], newest: int) -> dict[int, tuple[int | None, list[str]]]:
    """A batch script's log, which all attempts of a job share, by attempt: its exit code if known, and its lines.

    The worker's last lines, which the script repeats after a "|", are left out.
    """
    parts: dict[int, tuple[int | None, list[str]]] = {}
    own: list[str] = []
    for line in lines:
        if end := _ATTEMPT_END.match(line):
            parts[int(end[1])] = (int(end[2]), own)
            own = []
        elif not line.startswith("| "):
            own.append(line)
    code, before = parts.get(newest, (None, []))
    parts[newest] = (code, before + own)
    return parts


def error_lines(error: LogError | None) -> list[str]:
    """An error as evidence: only the end of a traceback, and the first few of many lines."""
    if error is None:
        return []
    lines = [line for line in error.lines if line.strip()]
    if lines[0].startswith("Traceback"):
        lines = [lines[-1], *lines[-3:-1]]
    rank = f"rank {error.rank}: " if error.rank is not None else ""
    return [short((rank if place == 0 else "") + line) for place, line in enumerate(lines[:ERROR_LINES])]


def short(line: str) -> str:
    """A line, cut to `LINE` characters."""
    return line if len(line) <= LINE else line[: LINE - 3] + "..."
