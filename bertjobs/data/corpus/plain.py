"""Plain text: one document per file, small files read together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bertjobs.data.corpus.document import decode, from_start, parts
from bertjobs.data.corpus.files import File, chunks, open_text, reading
from bertjobs.data.corpus.source import Document, Piece


def groups(files: Sequence[File], piece_bytes: int) -> Iterator[list[File]]:
    """Runs of files that hold about ``piece_bytes`` of text together, in order; a larger file is alone."""
    group: list[File] = []
    size = 0
    for file in files:
        if group and size + file.text_bytes > piece_bytes:
            yield group
            group, size = [], 0
        group.append(file)
        size += file.text_bytes
    if group:
        yield group


def uncut(file: File, _piece_bytes: int, _field: str) -> Iterator[tuple[int, int, int]]:
    """``(start, end, bytes of text)`` of a file that is one document: one piece."""
    yield 0, -1, file.text_bytes


def read_text(piece: Piece) -> Iterator[Document]:
    """The documents of a run of files; a document's id is its file's path below the root."""
    for path in piece.paths:
        with reading(path), open_text(path, piece.encoding) as file:
            yield from parts(path.removeprefix(piece.root), decode(from_start(chunks(file), path)))
