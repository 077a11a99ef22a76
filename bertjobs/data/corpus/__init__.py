"""Where documents come from: sources of several kinds, cut into pieces that tasks read independently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bertjobs.data.corpus.source import HELP, KINDS, SENTENCES, Document, Piece, Source, with_weight
from bertjobs.data.corpus.unread import UnreadFiles
from bertjobs.errors import InputError

__all__ = [
    "HELP", "KINDS", "PIECE_BYTES", "SENTENCES", "Document", "Piece", "Source", "UnreadFiles", "documents",
    "named_on_disk", "read", "refuse_sources_without_text", "scan",
]  # fmt: skip

PIECE_BYTES = 4_000_000
"""About how many bytes of text a piece holds."""

# The command line shows HELP without waiting for pyarrow, so what reads is imported where it is used.


def scan(sources: Sequence[Source], piece_bytes: int = PIECE_BYTES, unread: UnreadFiles | None = None) -> list[Piece]:
    """The pieces of all sources, in an order that depends on nothing but the files.

    Args:
        unread: here the files of folders are counted whose names are not those of the source's kind.

    Raises:
        InputError: a source that does not exist, cannot be read, holds no file of its kind or only empty ones, or
            files that are not text in their encoding, of which a few are looked at.
        UnavailableError: as ``read``.
    """
    from bertjobs.data.corpus.kinds import pieces

    return [piece for index, source in enumerate(sources) for piece in pieces(index, source, piece_bytes, unread)]


def read(
    piece: Piece, kind: str, empty: Callable[[Document], None] | None = None, odd: dict[str, int] | None = None
) -> Iterator[Document]:
    """The documents of a piece of a source of this kind, in the files' order.

    Args:
        empty: called with each document that has no text, which is left out.
        odd: here is counted, by file, what is not text: see ``soundness.sound``.

    Raises:
        InputError: a file that cannot be read, is not what its kind says, or is not text in its encoding.
        UnavailableError: a network or a disk that failed, also when it was tried again.
    """
    from bertjobs.data.corpus.kinds import read_piece

    for document in read_piece(piece, kind, odd):
        if document.text:
            yield document
        elif empty is not None:
            empty(document)


def refuse_sources_without_text(sources: Sequence[Source], pieces: Sequence[Piece]) -> None:
    """InputError that names the first source without a document; of each source only one is read."""
    for index, source in enumerate(sources):
        own = (piece for piece in pieces if piece.source == index)
        if not any(True for piece in own for _ in read(piece, source.kind)):
            raise _no_text(source)


def documents(source: str, unread: UnreadFiles | None = None) -> Iterator[Document]:
    """All documents of ``KIND:PATH``, in the files' order; ``unread`` as in ``scan``.

    Raises:
        InputError: as ``with_weight``, ``Source.parse``, ``scan`` and ``read``; or no document holds text.
    """
    parsed = Source.parse(named_on_disk(source))
    none = True
    for piece in scan([parsed], unread=unread):
        for document in read(piece, parsed.kind):
            none = False
            yield document
    if none:
        raise _no_text(parsed)


def named_on_disk(given: str) -> str:
    """``given`` as ``Source.parse`` takes it, by the paths that exist here: see ``with_weight``."""
    return with_weight(given, lambda path: Path(path).exists())


def _no_text(source: Source) -> InputError:
    return InputError(
        f"corpus {str(source)!r} holds no text",
        where="--corpus",
        hint=f"{source.kind} reads {KINDS[source.kind]}; the kinds are {', '.join(KINDS)}",
    )
