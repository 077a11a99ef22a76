"""The workers' logs: one file per attempt, in which srun labels each line with its rank (``12: text``)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertjobs.errors import InputError
from bertjobs.launch.watch.status import RunStatus
from bertjobs.launch.watch.watch import Watch
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.client import Slurm
from bertjobs.wording import columns, duration, harmless

FOLLOW_POLL_S = 0.5
LOOK_EVERY_S = 5.0
"""Seconds between checks whether the run is still active."""
CHUNK_BYTES = 1 << 20

_NUMBER = re.compile(r"[0-9]{1,9}")
_NODE = re.compile(r"node[0-9]+-[0-9]{8}")
"""A node that a person started, and the day: its log has the time behind it, and is not an attempt's."""
_LABEL = re.compile(r" *(\d+):(?: |$)")
_NAMED = re.compile(r"rank (\d+): ")
"""How the worker itself begins a line of a rank other than 0: before srun's labels, the only mark."""


@dataclass(frozen=True)
class LogFile:
    """A worker's log: ``bytes`` is its size, ``written_unix_s`` the time when it was last written to."""

    path: Path
    phase: int
    job: str
    attempt: int
    bytes: int
    written_unix_s: float

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class Selection:
    """Which logs: those of a phase, a job, an attempt; None for any."""

    phase: int | None = None
    job: str | None = None
    attempt: int | None = None

    def fits(self, phase: int, job: str, attempt: int | None) -> bool:
        """Whether it includes a log of these."""
        pairs = ((self.phase, phase), (self.job, job), (self.attempt, attempt))
        return all(wanted in (None, actual) for wanted, actual in pairs)

    def __str__(self) -> str:
        asked = (("phase", self.phase), ("job", self.job), ("attempt", self.attempt))
        return ", ".join(f"{name} {value}" for name, value in asked if value is not None)


def named_attempt(log: Path) -> tuple[str, int] | None:
    """The job and the attempt that a worker's log is named after (``17-0.out``); None for other files, such as the
    batch script's own log and what cannot be read as a file."""
    job, _, number = log.stem.rpartition("-")
    if job in ("", "slurm") or _NODE.fullmatch(job) or not _NUMBER.fullmatch(number):
        return None
    try:
        return (job, int(number)) if log.is_file() else None
    except OSError:
        return None


def log_files(directory: RunDirectory, selection: Selection) -> list[LogFile]:
    """The selected logs of workers, oldest first."""
    files = []
    for folder in directory.phases():
        for path in folder.outputs():
            if (named := named_attempt(path)) is not None and selection.fits(folder.number, *named):
                about = path.stat()
                files.append(LogFile(path, folder.number, *named, about.st_size, about.st_mtime))
    return sorted(files, key=lambda file: (file.written_unix_s, file.attempt))


def newest_log(directory: RunDirectory, selection: Selection) -> LogFile:
    """The log that was written to last.

    Raises:
        InputError: there is none; names the newest existing ones.
    """
    files = log_files(directory, selection)
    if files:
        return files[-1]
    others = log_files(directory, Selection())
    if not others:
        raise InputError(
            f"run {directory.name!r} has no log yet",
            where=str(directory.root),
            hint=f"see why: bertjobs status {directory.name}",
        )
    known = "; ".join(f"phase {file.phase}, job {file.job}, attempt {file.attempt}" for file in others[-5:])
    raise InputError(f"there is no log of {selection}", where=str(directory.root), hint=f"the newest logs are: {known}")


def logs_text(files: Sequence[LogFile], now: float) -> str:
    """The files as a table."""
    head = ["phase", "job", "attempt", "bytes", "written", "file"]
    body = [
        [
            *(str(file.phase), file.job, str(file.attempt), f"{file.bytes:,}"),
            *(f"{duration(now - file.written_unix_s)} ago", str(file.path)),
        ]
        for file in files
    ]
    return harmless("\n".join(columns([head, *body]))) if files else "no log yet"


def is_labelled(first_line: str) -> bool:
    """Whether a log has labels, judged by its first line: srun labels every line, even empty ones."""
    return _LABEL.match(first_line) is not None


def shown(line: str, rank: int | None, labelled: bool) -> str | None:
    """A line of a log as it is shown; None for one that is not shown.

    Args:
        line: without its end.
        rank: show only this rank's lines, without label; None shows rank 0's without label, those of others with
            ``rank N:``.
        labelled: whether the log has labels. Without them, a line belongs to the rank that it names, else to rank 0.
    """
    label = _LABEL.match(line) if labelled else None
    if label is None:
        named = _NAMED.match(line)
        if rank is None:
            return line
        if labelled:  # Slurm's own messages have no rank
            return None
        return line if rank == (int(named[1]) if named else 0) else None
    number, text = int(label[1]), line[label.end() :]
    if rank is not None:
        return text if number == rank else None
    return text if number == 0 or _NAMED.match(text) else f"rank {number}: {text}"


class LogReader:
    """Reads one log as it grows, in whole lines."""

    def __init__(self, file: LogFile, rank: int | None = None):
        self.file, self._rank = file, rank
        self._offset, self._rest = 0, b""
        self._labelled: bool | None = None

    def read(self, *, to_the_end: bool = False) -> Iterator[str]:
        """The lines added since the last call, as they are shown, each with its line break.

        Args:
            to_the_end: include a last line without a line break.

        Raises:
            InputError: the file cannot be read.
        """
        for chunk in self._chunks():
            self._offset += len(chunk)
            lines = (self._rest + chunk).split(b"\n")
            self._rest = lines.pop()
            yield from self._shown(lines)
        if to_the_end and self._rest:
            yield from self._shown([self._rest])
            self._rest = b""

    def _chunks(self) -> Iterator[bytes]:
        try:
            with open(self.file.path, "rb") as handle:
                handle.seek(self._offset)
                while chunk := handle.read(CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise InputError(f"the log cannot be read: {error.strerror}", where=str(self.file.path)) from error

    def _shown(self, lines: Iterable[bytes]) -> Iterator[str]:
        for raw in lines:
            line = raw.decode(errors="replace").removesuffix("\r")
            if self._labelled is None:
                self._labelled = is_labelled(line)
            text = shown(line, self._rank, self._labelled)
            if text is not None:
                yield harmless(text) + "\n"


def whole_log(directory: RunDirectory, selection: Selection, rank: int | None = None) -> Iterator[str]:
    """The newest selected log, line by line.

    Raises:
        InputError: there is none, or it has no line of this rank.
    """
    file = newest_log(directory, selection)
    lines = 0
    for line in LogReader(file, rank).read(to_the_end=True):
        lines += 1
        yield line
    if rank is not None and not lines:
        raise InputError(f"the log has no line of rank {rank}", where=str(file.path))


def follow(directory: RunDirectory, selection: Selection, slurm: Slurm, rank: int | None = None) -> Iterator[str]:
    """The newest log from its beginning and as it grows, then the next ones, until no job that may write one is active.

    Between logs, a line names the next one.
    """
    old = {file.path for file in log_files(directory, selection)[:-1]}
    readers: dict[Path, LogReader] = {}
    watch, latest = Watch(slurm), None
    looked_at = float("-inf")
    while True:
        ended = False
        if time.monotonic() - looked_at >= LOOK_EVERY_S:
            (run,) = watch.statuses([directory])
            ended, looked_at = not may_write(run, selection), time.monotonic()
        for file in log_files(directory, selection):
            if file.path in old:
                continue
            reader = readers.setdefault(file.path, LogReader(file, rank))
            for line in reader.read(to_the_end=ended):
                if latest not in (None, file.path):
                    yield f"==> {harmless(str(file.path))} <==\n"
                latest = file.path
                yield line
        if ended:
            return
        time.sleep(FOLLOW_POLL_S)


def may_write(run: RunStatus, selection: Selection) -> bool:
    """Whether a selected log may still grow, or be created."""
    if selection.phase is not None:
        phase = next((phase for phase in run.phases if phase.phase == selection.phase), None)
        if phase is None or phase.state == "DONE":
            return False
    if selection.job is None:
        return run.is_active
    link = next((link for link in run.links if link.job == selection.job), None)
    if link is None:
        return False
    begun = [entry.attempt or 0 for entry in link.entries if entry.state != "waiting"]
    return link.is_active and (selection.attempt is None or selection.attempt >= max(begun, default=0))
