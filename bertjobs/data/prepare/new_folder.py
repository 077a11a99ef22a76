"""A data folder that appears as a whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.files.atomic import PRIVATE_FOLDER, TEMPORARY_PREFIX, sync_folder
from bertjobs.files.faults import not_written


def check_output(output: Path) -> None:
    """InputError if something is there that a new folder would replace; an empty folder is not."""
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise InputError(f"{str(output)!r} exists", where="--output", hint="remove it or choose another")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` that takes its name when the block ends without an error, and else is removed.

    Raises:
        BertjobsError: it cannot be written; an InputError if that would not change.
    """
    output = output.absolute()
    temporary = output.with_name(f"{TEMPORARY_PREFIX}{output.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(mode=PRIVATE_FOLDER, parents=True)
        yield temporary
        if output.is_dir():
            output.rmdir()
        temporary.rename(output)
        sync_folder(output.parent)
    except OSError as error:
        raise not_written(str(output), error, "--output") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
