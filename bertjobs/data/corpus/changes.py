"""Whether a corpus is still what it was when it was scanned: sizes, times, and a digest of what was read."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bertjobs.data.corpus.files import File, file_at, is_url, reading
from bertjobs.data.corpus.persistent import UnavailableError
from bertjobs.data.corpus.source import Document, Piece
from bertjobs.errors import InputError

_CLOCKS_NS = (1, 1_000, 1_000_000, 1_000_000_000)  # what a file system may count time in


class CorpusChangedError(InputError):
    """A file of the corpus is no longer what it was when the prepare began."""


class Digest:
    """A digest of documents, ids and texts, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def of(self, documents: Iterator[Document]) -> Iterator[Document]:
        """The documents, each taken into the digest when it is read."""
        for document in documents:
            for part in (document.id, "\0", document.text, "\0"):
                self._hash.update(part.encode("utf-8", "surrogatepass"))
            yield document

    def __str__(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def unchanged(piece: Piece, hint: str) -> Iterator[None]:
    """Reads a piece in the block; an error that is raised in it may come from a file that has changed.

    Raises:
        CorpusChangedError: a file of the piece has changed since the corpus was scanned.
        UnavailableError: one is missing now.
    """
    try:
        yield
    except InputError as error:
        check_unchanged(piece, hint, error)
        raise
    check_unchanged(piece, hint)


def check_unchanged(piece: Piece, hint: str, cause: Exception | None = None) -> None:
    """Raises as ``unchanged``, because of ``cause``."""
    for path, size, version in zip(piece.paths, piece.sizes, piece.versions, strict=False):
        try:
            with reading(path):
                now = file_at(path, size)
        except InputError as error:
            raise UnavailableError(
                f"{path!r} was there when the prepare began, and is not now: {error.what}",
                where="--corpus",
                hint="once it is there again, as it was, run the same command again",
            ) from cause
        if words := change(File(path, size, version), now):
            raise CorpusChangedError(
                f"{path!r} has changed since the prepare began: {words}", where="--corpus", hint=hint
            ) from cause


def change(before: File, now: File) -> str:
    """How a file has changed, in words; "" if it has not as far as its size and its version say."""
    if before.size != now.size:
        return f"it had {before.size:,} bytes, now {now.size:,}"
    if not before.version or _same(before.version, now.version):
        return ""
    if is_url(before.path):
        return f"its server gave its version as {before.version}, now as {now.version}"
    return f"it was last written at {_moment(before.version)}, now at {_moment(now.version)}"


def _same(before: str, now: str) -> bool:
    """Whether two versions are equal, of which one may be a time that another host has rounded down."""
    if not (before.isdecimal() and now.isdecimal()):
        return before == now
    one, other = int(before), int(now)
    return any(one // unit == other // unit and 0 in (one % unit, other % unit) for unit in _CLOCKS_NS)


def _moment(version: str) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(version) / 1e9))
