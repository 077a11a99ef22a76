"""The files below a local folder, each once; links are followed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path


def files_below(root: str) -> Iterator[str]:
    """The paths of all files in a folder or below it; names that begin with a dot are skipped.

    A folder that can be reached in several ways is read once: where it really is if that is below ``root``, else
    through the first link. So a link to a folder around it ends there.

    Raises:
        FileNotFoundError: a link leads nowhere: what it stands for would be missing.
        OSError: a folder cannot be read.
    """
    seen = {_identity(str(parent)) for parent in Path(root).resolve().parents}
    folders = [root]
    while folders:
        links: list[str] = []
        for folder in folders:
            yield from _files(folder, seen, links)
        folders = sorted(links)


def _files(root: str, seen: set[tuple[int, int]], links: list[str]) -> Iterator[str]:
    """The files below a folder without those behind links to folders, which are added to ``links``."""
    folders = [root]
    while folders:
        folder = folders.pop()
        identity = _identity(folder)
        if identity in seen:
            continue
        seen.add(identity)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.is_symlink():
                    yield entry.path
                elif not Path(entry.path).exists():
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), entry.path)
                elif Path(entry.path).is_dir():
                    links.append(entry.path)
                else:
                    yield entry.path


def _identity(folder: str) -> tuple[int, int]:
    state = Path(folder).stat()
    return state.st_dev, state.st_ino
