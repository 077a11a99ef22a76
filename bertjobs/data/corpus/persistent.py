"""Reading on after an error that may pass: a connection that drops, a server or a disk that does not answer."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from bertjobs.errors import BertjobsError, first_line
from bertjobs.files import faults

T = TypeVar("T")

WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further try. A byte that was read begins the tries anew."""

_LASTING_CLASSES = (BertjobsError, FileNotFoundError, PermissionError, EOFError, ImportError, AttributeError,
                    LookupError, TypeError, ValueError, NotImplementedError, MemoryError)  # fmt: skip


class UnavailableError(BertjobsError):
    """A file cannot be read now, because a network, a server or a disk fails; it may well be sound."""


def may_pass(error: Exception, remote: bool) -> bool:
    """Whether another try may succeed.

    Args:
        remote: the error is of a remote file system, which raises classes of its own.
    """
    if isinstance(error, _LASTING_CLASSES):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return faults.may_pass(error)
    return remote or isinstance(error, (ConnectionError, TimeoutError))


def unavailable(path: str, error: Exception) -> UnavailableError:
    """The error of a file that stayed unreadable."""
    return UnavailableError(
        f"cannot read {path!r} at present: {reason(error)}", where="--corpus", hint="run the same command again later"
    )


def reason(error: Exception) -> str:
    """An error in a few words."""
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def persistently(action: Callable[[], T], path: str, remote: bool) -> T:
    """What ``action`` returns; it is tried again after an error that may pass, which is said on stderr.

    Raises:
        UnavailableError: it failed each time.
        Exception: any other error, as it is.
    """
    waits = iter(WAITS_S)
    while True:
        try:
            return action()
        except Exception as error:
            if not may_pass(error, remote):
                raise
            if (wait_s := next(waits, None)) is None:
                raise unavailable(path, error) from error
            print(f"{path}: {reason(error)}; trying again in {wait_s:g} s", file=sys.stderr, flush=True)
            time.sleep(wait_s)


class PersistentReader(io.RawIOBase):
    """The bytes of a file, which is opened when it is first read. After an error that may pass it is opened again, and
    read on where it stopped.

    Args:
        path: the file's name, for messages.
        open_at: opens the file at a place in bytes.
        size: gives the file's bytes.
        remote: as for ``may_pass``.
    """

    def __init__(self, path: str, open_at: Callable[[int], Any], size: Callable[[], int], remote: bool) -> None:
        self._path, self._open_at, self._size, self._remote = path, open_at, size, remote
        self._place = 0
        self._file: Any = None
        self._file_place = 0  # of the open file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place}.get(whence)
        self._place = offset + (self._size() if base is None else base)
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        return persistently(lambda: self._read(buffer), self._path, self._remote)

    def close(self) -> None:
        self._drop()
        super().close()

    def _read(self, buffer: Any) -> int:
        try:
            if self._file is not None and self._file_place != self._place:
                if self._file.seekable():
                    self._file.seek(self._place)
                    self._file_place = self._place
                else:
                    self._drop()
            if self._file is None:
                self._file, self._file_place = self._open_at(self._place), self._place
            count = int(self._file.readinto(buffer))
        except BaseException:
            self._drop()
            raise
        self._place += count
        self._file_place = self._place
        return count

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except Exception as error:  # of a connection that is lost anyway
                if not may_pass(error, self._remote):
                    raise
