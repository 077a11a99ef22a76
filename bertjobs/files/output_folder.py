"""A folder that a person asked for by name: it appears as a whole or not at all, and replaces nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.files.atomic import PRIVATE_FOLDER, sync_files, sync_folder, temporary_beside
from bertjobs.files.faults import not_written


def check_output(output: Path) -> None:
    """Make sure that nothing is there but, perhaps, an empty folder.

    Raises:
        InputError: something is.
    """
    if output.is_dir() and not output.is_symlink() and not any(output.iterdir()):
        return
    if output.is_symlink() or output.exists():
        what = "is not empty" if output.is_dir() else "is not a folder"
        raise InputError(f"{str(output)!r} exists and {what}", where="--output", hint="remove it or choose another")


def _open_up(folder: Path) -> None:
    umask = os.umask(0o077)
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


@contextmanager
def output_folder(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` that takes its name when the block ends without an error, and else is removed.

    Its files are flushed before, and have the permissions that the user's umask gives new ones: they may be for others,
    as a run's are not. What has come to ``output`` since `check_output` stays, and is an error.

    Raises:
        BertjobsError: it cannot be written; an InputError if that would not change.
    """
    output = output.absolute()
    temporary = temporary_beside(output)
    try:
        temporary.mkdir(mode=PRIVATE_FOLDER, parents=True)
        yield temporary
        _open_up(temporary)
        sync_files(temporary)
        if output.is_dir():
            output.rmdir()
        temporary.rename(output)
        sync_folder(output.parent)
    except OSError as error:
        raise not_written(str(output), error, "--output") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
