"""Whether shards stay unchanged while a run reads them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from bertjobs.data.shards.shard_check import PhaseShard
from bertjobs.errors import InputError
from bertjobs.files.atomic import sha256_of
from bertjobs.run.causes import Cause

INTERVAL_S = 60.0

Stamp = tuple[int, int, int]
"""A file's bytes, its time of change in ns, and its inode."""


class ShardWatch:
    """Checks shards from time to time, in a thread, and hashes again those whose file has changed.

    ``error`` names the first that was removed or altered, with the expected and the actual sha256. A file that was
    replaced by the same bytes, or only touched, is not an error. A file that cannot be read (its file server does not
    answer for a moment) is checked again later.
    """

    def __init__(self, shards: Sequence[PhaseShard], interval_s: float = INTERVAL_S) -> None:
        """Takes shards that have just been verified: a rank's share of those that a node reads."""
        self.error: InputError | None = None
        self._shards, self._interval = shards, interval_s
        self._stamps = [_stamp(shard.path) for shard in shards]
        self._closed = threading.Event()
        self._one_check = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="shard-watch", daemon=True)

    def check_now(self) -> InputError | None:
        """Check all shards; returns ``error``."""
        with self._one_check:
            for number, shard in enumerate(self._shards):
                if self.error is None and not self._closed.is_set():
                    self._check(number, shard)
        return self.error

    def close(self) -> None:
        """Stop watching. A check in progress is not waited for: the file system may hang."""
        self._closed.set()

    def __enter__(self) -> ShardWatch:
        if self._shards:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _watch(self) -> None:
        while self.error is None and not self._closed.wait(self._interval):
            self.check_now()

    def _check(self, number: int, shard: PhaseShard) -> None:
        stamp = _stamp(shard.path)
        if stamp is not None and stamp == self._stamps[number] and stamp[0] == shard.file.bytes:
            return
        try:
            sha256 = sha256_of(shard.path)
        except FileNotFoundError:
            self.error = _changed(shard, "is missing")
            return
        except OSError:
            return
        if _stamp(shard.path) != stamp:
            return  # it is being written
        self._stamps[number] = stamp
        if sha256 != shard.file.sha256:
            self.error = _changed(shard, f"was altered: its sha256 is {sha256}")


def _stamp(path: Path) -> Stamp | None:
    """None if there is no such file, or its status cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _changed(shard: PhaseShard, how: str) -> InputError:
    return InputError(
        f"shard {shard.name} {how}, the manifest says {shard.file.sha256}",
        where=f"{shard.path}, while the run was reading it",
        hint="restore it from a copy; the run then resumes from its last checkpoint",
        cause=Cause.DAMAGED_SHARD,
    )
