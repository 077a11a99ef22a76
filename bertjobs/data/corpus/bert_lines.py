"""BERT's own input (what create_pretraining_data.py reads): one sentence per line, an empty line between documents.

A line of white space alone is empty. A document belongs to the piece in which its first line begins, and is never cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from bertjobs.data.corpus.document import CHUNK, decode, from_start, parts
from bertjobs.data.corpus.files import open_text, reading
from bertjobs.data.corpus.lines import first_line_from
from bertjobs.data.corpus.source import Document, Piece

_STRETCH = 1 << 16  # bytes of lines that are decoded together
_MAY_BE_WHITE_SPACE = frozenset(b"\x1c\x1d\x1e\x1f\xc2\xe1\xe2\xe3")  # white space that bytes.strip() leaves


def read_bert(piece: Piece) -> Iterator[Document]:
    """The documents of a piece; a document's text keeps its line ends, which are those of its sentences."""
    (path,) = piece.paths
    name = path.removeprefix(piece.root)
    with reading(path), open_text(path, piece.encoding) as file:
        for place, chunks in _documents(file, piece.start, piece.end):
            yield from parts(f"{name}:{place}", decode(from_start(chunks, path) if place == 0 else chunks))


def _documents(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The place of each document that begins in ``[start, end)`` (``end`` -1: to the end), and its bytes in chunks."""
    place = first_line_from(file, start)
    follows_empty_line = place == 0 or _empty_line_ends_at(file, place)
    lines = _Lines(file, place)
    while not follows_empty_line and lines.line and (end < 0 or lines.place < end):  # the document of an earlier piece
        follows_empty_line = lines.is_empty
        lines.step()
    while True:
        while lines.line and lines.is_empty:
            lines.step()
        if not lines.line or (0 <= end <= lines.place):
            return
        document = lines.document()
        yield lines.place, document
        for _ in document:
            pass


class _Lines:
    """Reads a file line by line; of a line longer than a chunk, chunk by chunk.

    Attributes:
        line: the line that begins at ``place``, with its newline; empty at the file's end.
    """

    def __init__(self, file: BinaryIO, place: int) -> None:
        if place:
            file.seek(place)  # `_empty_line_ends_at` has read before it
        self._readline, self._begins, self.place = file.readline, True, place
        self.line = self._readline(CHUNK)

    def step(self) -> None:
        """Go to the next line."""
        self.place += len(self.line)
        self._begins = self.line.endswith(b"\n")
        self.line = self._readline(CHUNK)

    @property
    def is_empty(self) -> bool:
        """Whether the line is white space alone (one that is longer than a chunk never is)."""
        bare = self.line.strip()
        if bare and bare[0] not in _MAY_BE_WHITE_SPACE:
            return False
        return self._begins and len(self.line) < CHUNK and _is_white_space(bare)

    def document(self) -> Iterator[bytes]:
        """The lines up to the next empty one."""
        held: list[bytes] = []
        size = 0
        while self.line and not self.is_empty:
            held.append(self.line)
            size += len(self.line)
            if size >= _STRETCH:
                yield b"".join(held)
                held, size = [], 0
            self.step()
        yield b"".join(held)


def _is_white_space(line: bytes) -> bool:
    return not line.decode("utf-8", "replace").strip()


def _empty_line_ends_at(file: BinaryIO, place: int) -> bool:
    """Whether the line before ``place``, where a line begins, is empty."""
    begin = max(0, place - CHUNK)
    file.seek(begin)
    line = file.read(place - begin).removesuffix(b"\n").rpartition(b"\n")[2]
    return len(line) < CHUNK - 1 and _is_white_space(line)
