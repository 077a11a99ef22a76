"""JSON lines: each is appended by a single write; a line that is not whole is skipped by readers."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bertjobs.files.reading import parse_json, read_bytes

TAIL_BYTES = 1 << 15
"""A run's throughput is the median over its last steps, about 50: its first are slower."""

LARGEST = 1e30
"""Numbers beyond it mean nothing in our files, and could not be added up or drawn."""


def last_lines(path: Path, tail_bytes: int = TAIL_BYTES) -> list[Any]:
    """The JSON lines in the last bytes of a file; [] if it is absent. Lines that are not JSON are left out.

    Raises:
        DamagedFileError: it cannot be read.
    """
    tail = read_bytes(path, tail_bytes + 1) or b""
    # The first line may be cut: all before its end is left out.
    return parse_lines(tail.partition(b"\n")[2] if len(tail) > tail_bytes else tail)


def read_lines(path: Path) -> list[Any]:
    """The JSON lines of a file; [] if it is absent. Lines that are not JSON, as a crash leaves them, are left out.

    Raises:
        DamagedFileError: it cannot be read.
    """
    return parse_lines(read_bytes(path) or b"")


def parse_lines(content: bytes) -> list[Any]:
    """The values of those lines that are JSON."""
    values = []
    for line in content.split(b"\n"):
        try:
            values.append(parse_json(line.decode("utf-8")))
        except ValueError:
            continue
    return values


def numbers(lines: Iterable[Any], key: str) -> list[float]:
    """The positive numbers under a key in lines of metrics.jsonl, whatever else these hold."""
    values = [line.get(key) for line in lines if isinstance(line, dict)]
    return [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and 0 < v <= LARGEST]


def append_line(path: Path, value: Any, *, follow: bool = False) -> None:
    """Append one JSON line by a single write, so that several writers do not mix their lines.

    Args:
        follow: write through a symbolic link of this name, or into what is not a plain file. Without it, somebody who
            may write to the folder could lead the line into another file of this user's.

    Raises:
        OSError: the line could not be written whole; names the file.
    """
    line = (json.dumps(value) + "\n").encode()
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, 0o600)
    try:
        status = os.fstat(descriptor)
        is_plain = stat.S_ISREG(status.st_mode)
        if not is_plain and not follow:
            raise OSError(errno.EINVAL, "it is not a plain file")
        # Truncated by a full disk: the line before has no end.
        if is_plain and status.st_size and os.pread(descriptor, 1, status.st_size - 1) != b"\n":
            line = b"\n" + line
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)
