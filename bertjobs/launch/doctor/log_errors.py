"""What the logs say: the errors in them, whose each is, and the cause that it is a sign of.

Pure: lines of text in, `Said` and `Cause` out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

REPEATED_LINES = 5  # of the worker's log, in the batch script's
LINE = 240  # characters of an evidence line
ERROR_LINES = 6

_RANK = re.compile(r"rank (\d+): ")
_BEGIN = re.compile(r"error: |Traceback \(most recent call last\):|Fatal Python error: |Timeout \(\d+:\d\d:\d\d")
_SLURM = re.compile(r"(slurmstepd|srun|slurmd|pyxis)\b[^:]*: ")
_ANONYMOUS = ("Fatal Python error", "Timeout (")  # faulthandler names no rank
_ENDED = re.compile(r"ended with code (\d+); log: \S*?([^/\s]+)-(\d+)\.out")


class Cause(StrEnum):
    """What a verdict says of a run."""

    DONE = "done"
    RUNNING = "running"
    STALLED = "running without a step"
    QUEUED = "queued"
    NOT_STARTED = "not started"
    STOPPED = "stopped"
    BAD_INPUT = "bad input"
    GPU_MEMORY = "out of GPU memory"
    HOST_MEMORY = "out of host memory"
    HANG = "hang"
    NODE_FAILURE = "node failure"
    UNFIT_NODE = "unfit node"
    CONTAINER = "container"
    PORT = "ranks cannot join"
    DISK = "disk"
    TIME_LIMIT = "time limit"
    PREEMPTED = "preempted"
    PREEMPTION_LOOP = "preemption loop"
    DEPENDENCY = "dependency never met"
    CANCELLED = "cancelled"
    GRADIENTS = "gradients not finite"
    LOST_RANK = "lost rank"
    CRASHED = "crashed"
    UNKNOWN = "unknown"


# What the programs say: torch, the worker, Slurm, pyxis and enroot. In one error, the first that fits counts.
SIGNS: tuple[tuple[Cause, str], ...] = (
    (Cause.UNFIT_NODE, r"training would be useless: |a test of the network between"),
    (Cause.CONTAINER, r"\b(pyxis|enroot)\b"),
    (Cause.NODE_FAILURE, r"DUE TO NODE FAILURE|Node failure on "),
    (
        Cause.GPU_MEMORY,
        r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|CU(BLAS|DNN)_STATUS_ALLOC_FAILED",
    ),
    (
        Cause.HOST_MEMORY,
        r"oom[-_]kill|: Out Of Memory|DefaultCPUAllocator: (can't allocate|not enough) memory|\bMemoryError\b"
        r"|Cannot allocate memory",
    ),
    (Cause.HANG, r"nothing moved for .* \(hang_timeout_s\)|^Timeout \("),
    (Cause.DISK, r"No space left on device|Disk quota exceeded|checkpoint of step \d+ cannot be written"),
    (Cause.PORT, r"cannot join the others|EADDRINUSE|[Aa]ddress already in use"),
    (Cause.GRADIENTS, r"steps in a row had gradients that are not finite"),
    (Cause.TIME_LIMIT, r"DUE TO TIME LIMIT"),
    (Cause.PREEMPTED, r"DUE TO PREEMPTION"),
)
_SIGNS = tuple((cause, re.compile(pattern, re.MULTILINE)) for cause, pattern in SIGNS)
LOST = "error: another rank is gone"


@dataclass(frozen=True)
class Said:
    """An error as a log has it. ``rank``: whose it is; None for what Slurm, a container or a dying process says."""

    rank: int | None
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def errors_in(lines: Iterable[str]) -> tuple[Said, ...]:
    """The errors in a log that all ranks write: rank 0's lines bear no name, an error's first line of others does.

    Neighbouring lines of Slurm and pyxis are one.
    """
    said: list[tuple[int | None, list[str]]] = []
    kind = ""  # of the one that may go on: error, traceback, slurm
    for line in lines:
        named = _RANK.match(line)
        text = line[named.end() :] if named else line
        if _SLURM.match(text):
            if kind != "slurm":
                said.append((None, []))
            kind = "slurm"
        elif _BEGIN.match(text):
            rank = None if text.startswith(_ANONYMOUS) else int(named[1]) if named else 0
            said.append((rank, []))
            kind = "error" if text.startswith("error: ") else "traceback"
        elif kind in ("error", "traceback") and text[:1].isspace() and (not named or said[-1][0] == int(named[1])):
            pass
        elif kind == "traceback" and text and (not named or said[-1][0] == int(named[1])):  # the exception itself
            kind = "last"
        else:
            kind = ""
        if kind:
            said[-1][1].append(text.rstrip())
        if kind == "last":
            kind = ""
    return tuple(Said(rank, tuple(lines)) for rank, lines in said)


def batch_parts(lines: Sequence[str], newest: int) -> dict[int, tuple[int | None, list[str]]]:
    """A batch script's log, which all attempts of a job share, by attempt: its exit code if told, and its lines.

    The worker's last lines, which the script repeats, are left out.
    """
    parts: dict[int, tuple[int | None, list[str]]] = {}
    own: list[str] = []
    repeated = 0
    for line in lines:
        if ended := _ENDED.search(line):
            parts[int(ended[3])] = (int(ended[1]), own)
            own, repeated = [], REPEATED_LINES if int(ended[1]) else 0
        elif line.startswith(("continuing: ", "continuing elsewhere: ", "not continued: ")):
            repeated = 0
        elif repeated:
            repeated -= 1
        else:
            own.append(line)
    code, before = parts.get(newest, (None, []))
    parts[newest] = (code, before + own)
    return parts


def cause_of(said: Said) -> Cause | None:
    """What one error says; None for those that follow from another one."""
    text = said.text
    if text.startswith(LOST):
        return None
    for cause, sign in _SIGNS:
        if sign.search(text) and (cause is not Cause.CONTAINER or said.rank is None):
            return cause
    return Cause.CRASHED if said.rank is not None or text.startswith("Fatal Python error") else None


def said_lines(said: Said | None) -> list[str]:
    """An error as evidence: a traceback's last line alone, and of many lines the first."""
    if said is None:
        return []
    lines = [line for line in said.lines if line.strip()]
    if lines[0].startswith("Traceback"):
        lines = [lines[-1], *lines[-3:-1]]
    rank = f"rank {said.rank}: " if said.rank is not None else ""
    return [short((rank if place == 0 else "") + line) for place, line in enumerate(lines[:ERROR_LINES])]


def short(line: str) -> str:
    """A line, cut to `LINE` characters."""
    return line if len(line) <= LINE else line[: LINE - 3] + "..."
