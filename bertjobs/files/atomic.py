"""Files and folders that are either complete or absent, also after a crash or a power cut."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
TEMPORARY_PREFIX = ".tmp-"


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (new names, renames) to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush a file's bytes to the disk."""
    with open(path, "rb+") as handle:
        os.fsync(handle.fileno())


def sync_files(folder: Path) -> None:
    """Flush the files of a folder and of those inside it to the disk; what links lead to is not this folder's."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            sync_file(file)


def temporary_beside(path: Path) -> Path:
    """A name beside ``path`` that nothing else has, and that a crash may leave."""
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}")


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that replaces ``path``, flushed to the disk, when the block ends without an error.

    Readers see the old bytes or the new, never a part of either.
    """
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_text(path: Path, text: str) -> bool:
    """Create a file, for its owner alone, that holds ``text``; False if there is one of that name already.

    Of several who try at once one succeeds, on NFS and Lustre too: by a hard link to a whole file, or, on file systems
    without hard links, by exclusive creation, after which readers may see a part of it for a moment.
    """
    draft = temporary_beside(path)
    with open(draft, "x", encoding="utf-8", opener=_private) as file:
        file.write(text)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE)


def unlinked(path: str, flags: int) -> int:
    """An opener for `open`: a symbolic link in place of the file is an error, not followed to another file of the
    user's."""
    return os.open(path, flags | os.O_NOFOLLOW, PRIVATE_FILE)


def touch(path: Path) -> None:
    """Give a file the present time by its file system's clock; it is made, for its owner alone, if it is absent.

    Raises:
        OSError: it cannot be; or a symbolic link has its name, which is not followed.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, PRIVATE_FILE)
    try:
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by a file holding ``text``, atomically."""
    with new_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def write_hashed(path: Path, blocks: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write a file in place and flush it to the disk; for folders that are renamed when they are complete.

    Other threads run meanwhile: hashing and writing large blocks hold no lock of the interpreter's.

    Args:
        path: the file to make or to overwrite.
        blocks: its bytes, in order.

    Returns:
        Its size in bytes, and the sha256 (64 hex digits) of what was written, which was not read again.

    Raises:
        OSError: it could not be written whole.
    """
    size, digest = 0, hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for block in blocks:
            digest.update(block)
            rest = memoryview(block)
            size += rest.nbytes
            while rest.nbytes:
                rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    return size, digest.hexdigest()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under ``path`` only when the block ends without an error.

    Yields a temporary folder beside ``path``; its files are flushed, then it is renamed. A folder that
    already has this name is replaced.
    """
    temporary = temporary_beside(path)
    temporary.mkdir(mode=PRIVATE_FOLDER, parents=True)
    try:
        yield temporary
        sync_files(temporary)
        publish_folder(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish_folder(temporary: Path, path: Path) -> None:
    """Rename a folder whose files are complete and flushed to ``path``, beside it, in place of one of that name.

    Raises:
        OSError: it could not be renamed; a folder that was there is still there.
    """
    sync_folder(temporary)
    # Not deleted in place: a reader would see a part.
    replaced = path.rename(temporary_beside(path)) if path.exists() else None
    try:
        temporary.rename(path)
    except BaseException:
        if replaced is not None:
            replaced.rename(path)
        raise
    sync_folder(path.parent)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder that readers never see half-deleted; `remove_leftovers` deletes what a crash leaves of it.

    Raises:
        OSError: it could not be deleted.
    """
    shutil.rmtree(folder.rename(temporary_beside(folder)))


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed writer left in ``folder`` under temporary names."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
