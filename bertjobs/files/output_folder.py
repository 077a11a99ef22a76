"""A folder that a person asked for by name: it appears as a whole or not at all, and replaces nothing."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.files.atomic import PRIVATE_FOLDER, TEMPORARY_PREFIX, sync_file, sync_folder
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


@contextmanager
def output_folder(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` that takes its name when the block ends without an error, and else is removed.

    Its files are flushed before. What has come to ``output`` since `check_output` stays, and is an error.

    Raises:
        BertjobsError: it cannot be written; an InputError if that would not change.
    """
    output = output.absolute()
    temporary = output.with_name(f"{TEMPORARY_PREFIX}{output.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(mode=PRIVATE_FOLDER, parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                sync_file(file)
        if output.is_dir():
            output.rmdir()
        temporary.rename(output)
        sync_folder(output.parent)
    except OSError as error:
        raise not_written(str(output), error, "--output") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
