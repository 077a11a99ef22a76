"""JSON lines: each is appended by a single write; a line that is not whole is skipped by readers."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TAIL_BYTES = 1 << 15
"""A run's throughput is the median over its last steps, about 50: its first are slower."""


def last_lines(path: Path, tail_bytes: int = TAIL_BYTES) -> list[Any]:
    """The JSON lines in the last bytes of a file; [] if it is absent. Lines that are not JSON are left out."""
    if not path.exists():
        return []
    with open(path, "rb") as handle:
        start = max(0, path.stat().st_size - tail_bytes)
        handle.seek(start)
        lines = handle.read().split(b"\n")
    values = []
    for line in lines[1:] if start else lines:  # the first may be cut
        try:
            values.append(json.loads(line))
        except ValueError:
            continue
    return values


def numbers(lines: Iterable[Any], key: str) -> list[float]:
    """The positive numbers under a key in lines of metrics.jsonl, whatever else these hold."""
    values = [line.get(key) for line in lines if isinstance(line, dict)]
    return [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < math.inf]


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line by a single write, so that several writers do not mix their lines.

    Raises:
        OSError: the line could not be written whole; names the file.
    """
    line = (json.dumps(value) + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # truncated by a full disk
            line = b"\n" + line
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; [] if it is absent. A last line cut short by a crash is left out."""
    if not path.exists():
        return []
    values = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return values
