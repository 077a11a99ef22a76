"""Where documents come from: sources of several kinds, cut into pieces that tasks read independently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bertjobs.data.corpus.source import HELP, KINDS, Document, Piece, Source
from bertjobs.errors import InputError

__all__ = ["HELP", "KINDS", "PIECE_BYTES", "Document", "Piece", "Source", "documents", "read", "scan"]

PIECE_BYTES = 4_000_000
"""About how many bytes of text a piece holds."""

# The command line shows HELP without waiting for pyarrow, so what reads is imported where it is used.


def scan(sources: Sequence[Source], piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """The pieces of all sources, in an order that depends on nothing but the files.

    Raises:
        InputError: a source that does not exist, cannot be read, holds no file of its kind or only empty ones, or
            files that are not text in their encoding, of which a few are looked at.
        UnavailableError: as ``read``.
    """
    from bertjobs.data.corpus.kinds import pieces

    return [piece for index, source in enumerate(sources) for piece in pieces(index, source, piece_bytes)]


def read(piece: Piece, kind: str) -> Iterator[Document]:
    """The documents of a piece of a source of this kind, in the files' order.

    Raises:
        InputError: a file that cannot be read, is not what its kind says, or is not text in its encoding.
        UnavailableError: a network or a disk that failed, also when it was tried again.
    """
    from bertjobs.data.corpus.kinds import read_piece

    return read_piece(piece, kind)


def documents(source: str) -> Iterator[Document]:
    """All documents of ``KIND:PATH``, in the files' order.

    Raises:
        InputError: as ``Source.parse``, ``scan`` and ``read``; or no document holds text.
    """
    parsed = Source.parse(source)
    empty = True
    for piece in scan([parsed]):
        for document in read(piece, parsed.kind):
            empty = False
            yield document
    if empty:
        raise InputError(f"corpus {source!r} holds no text", where="--corpus")
