"""A file that a person asked for by name: it is written whole or not at all, but a device or a FIFO is written into."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bertjobs.files.atomic import new_file


def is_stream(path: Path) -> bool:
    """Whether a path is there and leads to no file or folder, such as /dev/null: never to be replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def followed(path: Path) -> Path:
    """What is to be replaced: the file that a symbolic link leads to, and not the link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def output_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write: as `new_file` where there is none or a file, else what is there.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") if is_stream(path) else new_file(followed(path)) as file:
        yield file
