"""Which attempt trains a run: one at a time (contract 2 of the design).

A run's ``owners/`` holds a numbered record of each attempt that came to own it; the last one is the owner until it is
released or dead. To take a run is to create the next number, by a hard link, which fails where the name exists: on NFS
and Lustre as well, without locks (open(2), "O_EXCL"; Herlihy and Shavit, "The Art of Multiprocessor Programming",
consensus by a write-once cell). A record is never changed or deleted: whoever is late cannot take away another's.

Who owns a run touches a file while it lives. Its age is read from the file system's own clock, so that the clocks of
two hosts need not agree.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bertjobs.errors import EXIT_DONE, BertjobsError
from bertjobs.files.atomic import PRIVATE_FOLDER, create_text, touch
from bertjobs.files.lock import process_start
from bertjobs.files.reading import DamagedFileError, read_json, record_of

BEAT_S = 10.0
"""Seconds between two signs of life."""

SILENT_S = 180.0
"""After so many seconds without one an owner is dead, unless Slurm says that its job runs."""

_RECORD = re.compile(r"\d{6}\.json")
_RELEASED = ".released"


@dataclass(frozen=True)
class Owner:
    """An attempt that owns a run, or wants to.

    Attributes:
        job: Slurm's id, or the local launcher's; for a command that queues jobs, its own name.
        attempt: how often the job has been requeued.
        host, pid: where it was taken from; the process lives as long as the attempt if ``scheduler`` is "local".
        pid_start: when that process began, since numbers of processes are reused; "" if that is not known.
        scheduler: "slurm" or "local".
        chain: the submission that the job belongs to.
        taken_unix_s: by that host's clock: for people.
        number: of the record; 0 before there is one.
    """

    job: str
    attempt: int
    host: str
    pid: int
    scheduler: str
    chain: str = ""
    pid_start: str = ""
    taken_unix_s: float = 0.0
    number: int = 0

    @property
    def is_known(self) -> bool:
        """Whether its record could be read."""
        return bool(self.scheduler)

    def is_attempt(self, job: str, attempt: int) -> bool:
        return (self.job, self.attempt) == (job, attempt)

    def is_same(self, other: Owner) -> bool:
        """Whether both are one attempt: two launchers on this machine may call theirs the same."""
        same_process = self.scheduler != "local" or (self.host, self.pid) == (other.host, other.pid)
        return self.is_attempt(other.job, other.attempt) and same_process

    def words(self) -> str:
        """``job 17 (attempt 1) on node3``."""
        return f"job {self.job} (attempt {self.attempt}) on {self.host}"


class NotOwnerError(BertjobsError):
    """Another attempt trains the run. Nothing is wrong: whoever meets it leaves, with 0."""

    exit_code = EXIT_DONE

    def render(self) -> str:
        return f"{self.what} ({self.where})" if self.where else self.what


Lives = Callable[[Owner], bool | None]
"""Whether an attempt still runs, by the word of whoever started it; None if nobody says: its signs of life count."""


@dataclass(frozen=True)
class Owners:
    """The records of one run, in its folder ``owners``."""

    folder: Path

    def last(self) -> Owner | None:
        """The last owner, released or not; None if there was none.

        A record that cannot be read is an owner without a name: only its signs of life speak for it.
        """
        names = self._names()
        return self._read(names[-1]) if names else None

    def all(self) -> list[Owner]:
        """All of them, oldest first."""
        return [self._read(name) for name in self._names()]

    def lifetimes(self) -> dict[tuple[str, int], tuple[float, float]]:
        """By job and attempt: when each came to own the run, and its last sign of life, in seconds since 1970."""
        lives = {}
        for owner in self.all():
            last = owner.taken_unix_s
            with suppress(OSError):
                last = max(last, self._beat(owner).stat().st_mtime)
            lives[owner.job, owner.attempt] = (owner.taken_unix_s, last)
        return lives

    def _names(self) -> list[str]:
        """The records' file names, oldest first."""
        try:
            return sorted(file.name for file in self.folder.iterdir() if _RECORD.fullmatch(file.name))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _read(self, name: str) -> Owner:
        number = int(name.partition(".")[0])
        unknown = Owner("unknown", 0, "an unknown host", 0, "", number=number)
        try:
            return read_json(self.folder / name, lambda value: record_of(Owner, value, number=number)) or unknown
        except DamagedFileError:
            return unknown

    def current(self, lives: Lives) -> Owner | None:
        """The owner, if there is one that is alive."""
        last = self.last()
        return last if last and self._is_alive(last, lives) else None

    def _is_alive(self, owner: Owner, lives: Lives) -> bool:
        if self.is_released(owner):
            return False
        alive = lives(owner)
        return self._beats(owner) if alive is None else alive

    def take(self, candidate: Owner, lives: Lives) -> tuple[Owner, bool]:
        """Make ``candidate`` the owner, unless another one is alive.

        Returns:
            The owner, and whether it is the candidate; an attempt that owns the run already keeps it.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        while True:
            last = self.last()
            if last and last.is_same(candidate) and not self.is_released(last):
                return last, True
            if last and self._is_alive(last, lives):
                return last, False
            wanted = replace(candidate, number=last.number + 1 if last else 1, taken_unix_s=round(time.time(), 3))
            touch(self._beat(wanted))
            content = {name: value for name, value in asdict(wanted).items() if name != "number"}
            if create_text(self._record(wanted), json.dumps(content) + "\n"):
                return wanted, True

    def _record(self, owner: Owner) -> Path:
        return self.folder / f"{owner.number:06d}.json"

    def release(self, owner: Owner) -> None:
        """The owner has ended; nothing else is changed if it has long been followed by another."""
        with suppress(OSError):  # it is dead then, in time
            touch(self._record(owner).with_suffix(_RELEASED))

    def is_released(self, owner: Owner) -> bool:
        return self._record(owner).with_suffix(_RELEASED).exists()

    def owns(self, job: str, attempt: int) -> bool:
        """Whether no other attempt is seen to have taken the run from this one; True where nobody ever took it, or
        while the record cannot be read.

        Raises:
            OSError: the folder cannot be read.
        """
        last = self.last()
        return last is None or not last.is_known or last.is_attempt(job, attempt)

    # Signs of life

    def beat(self, owner: Owner) -> None:
        """Give a sign of life."""
        with suppress(OSError):
            touch(self._beat(owner))

    def _beat(self, owner: Owner) -> Path:
        """Named by the attempt, for run.sub to touch."""
        return self.folder / f"{owner.job}-{owner.attempt}.beat"

    def _beats(self, owner: Owner) -> bool:
        """Whether the last sign of life (or the record itself) is younger than `SILENT_S`."""
        now = self._now()
        for file in (self._beat(owner), self._record(owner)):
            with suppress(OSError):
                if now - file.stat().st_mtime < SILENT_S:
                    return True
        return False

    def _now(self) -> float:
        """The file system's clock."""
        probe = self.folder / f".now-{uuid.uuid4().hex}"
        touch(probe)
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)


def process_lives(owner: Owner, host: str) -> bool | None:
    """Whether the process of an owner on this ``host`` lives; None for other hosts."""
    if owner.host != host or not owner.pid:
        return None
    start = process_start(owner.pid)
    return start is not None and owner.pid_start in ("", start)
