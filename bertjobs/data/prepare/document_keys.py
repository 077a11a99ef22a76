"""A document's key, which all draws about it depend on: its split, its bucket, whether and how often it is used.

The key is of the id. In a source whose ids repeat it is of id and text: else all documents of one id would be in one
split and in one bucket. That is a property of the source, found in a sample of it, so it does not depend on the order
in which pieces are read.

The parts of a long document have one key, so that all of it is held out or none. Unless it may be more than is to be
held out: then each part has a key of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import ceil

from bertjobs.data.corpus import Document, Piece, Source, read

Keyed = tuple[tuple[int, int], Document]
"""A document with its key, and a number that differs between those of one key."""

_OWN_IDS = ("lddl",)  # kinds whose ids are the user's; the others' are places in files, or pages of one wiki
_PIECES, _DOCUMENTS = 64, 256  # of a source, whose ids are compared
_BYTES = 1 << 20  # of a piece that are read for that
_PART = re.compile(r"#(\d+)$")  # what `corpus` adds to the id of a part of a long document


def document_key(seed: int, identifier: str) -> tuple[int, int]:
    """64 bits of a document, for all draws about it, and the number of the part: parts of a long one have one key."""
    base, part = _split(identifier)
    return _key(f"{seed}/{base}"), part


def keyed(documents: Iterable[Document], piece: Piece, seed: int, *, parts_apart: bool = False) -> Iterator[Keyed]:
    """The documents of a piece, keyed as `document_key` says or, where ids repeat, by the text of the document that a
    part belongs to.

    Args:
        parts_apart: the parts of a document after its first have keys of their own: of the id with the part's number
            or, where ids repeat, of the part's text.
    """
    key = 0
    for place, (document, continues) in enumerate(_in_parts(documents)):
        apart = continues and parts_apart
        if not piece.ids_repeat:
            shared, part = document_key(seed, document.id)
            yield (_key(f"{seed}/{document.id}") if apart else shared, part), document
            continue
        if not continues or apart:
            key = _key(f"{seed}/{document.id}/{document.text}")
        yield (key, piece.start + place), document


def with_repeated_ids(pieces: Sequence[Piece], sources: Sequence[Source]) -> list[Piece]:
    """The pieces, those of sources whose ids repeat marked as such.

    Raises:
        InputError: as `corpus.read`.
    """
    repeating = {
        index
        for index, source in enumerate(sources)
        if source.kind in _OWN_IDS and _ids_repeat([piece for piece in pieces if piece.source == index], source.kind)
    }
    return [replace(piece, ids_repeat=piece.source in repeating) for piece in pieces]


def _ids_repeat(pieces: Sequence[Piece], kind: str) -> bool:
    """Whether ids repeat among documents from all over a source."""
    sample = pieces[:: max(1, ceil(len(pieces) / _PIECES))]
    seen: set[str] = set()
    for piece in sample:
        for document, continues in _in_parts(_first(piece, kind, ceil(_DOCUMENTS / len(sample)))):
            base, _ = _split(document.id)
            if not continues and base in seen:
                return True
            seen.add(base)
    return False


def _first(piece: Piece, kind: str, count: int) -> Iterator[Document]:
    size = 0
    for place, document in enumerate(read(piece, kind)):
        yield document
        size += document.size
        if place + 1 == count or size >= _BYTES:
            return


def _in_parts(documents: Iterable[Document]) -> Iterator[tuple[Document, bool]]:
    """Each document, and whether it is a part of the one that began before it: its id may only look like a part's."""
    expected = ("", 0)
    for document in documents:
        base, part = _split(document.id)
        continues = (base, part) == expected
        expected = (base, part + 1) if continues else (document.id, 2)
        yield document, continues


def _split(identifier: str) -> tuple[str, int]:
    """An id without the number of its part, and that number."""
    part = _PART.search(identifier)
    return (identifier[: part.start()], int(part[1])) if part else (identifier, 1)


def _key(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
