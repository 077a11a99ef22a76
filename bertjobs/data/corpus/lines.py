"""Corpora with one document per line: LDDL's source, and JSON lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from bertjobs.data.corpus.document import CHUNK, decode, from_start, parts
from bertjobs.data.corpus.files import File, open_text, reading
from bertjobs.data.corpus.source import Document, Piece
from bertjobs.errors import InputError

_WHITE_SPACE = re.compile(r"\s")
_FEW = 5  # lines without an id: below that many, most lines may be such


def byte_ranges(file: File, piece_bytes: int, _field: str = "") -> Iterator[tuple[int, int, int]]:
    """``(start, end, bytes of text)`` of a file's pieces; an indivisible file is one."""
    if not file.divisible:
        yield 0, -1, file.text_bytes
        return
    for start in range(0, file.size, piece_bytes):
        end = min(start + piece_bytes, file.size)
        yield start, end, end - start


def lines(file: BinaryIO, start: int, end: int, path: str) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The place of each line that begins in ``[start, end)`` (``end`` -1: to the end), and its bytes in chunks.

    A line ends at its newline, which is not part of it. Never holds more than one chunk.

    Raises:
        InputError: as ``from_start``; ``path`` is the file's name for it.
    """
    place = first_line_from(file, start)
    while end < 0 or place < end:
        first = file.readline(CHUNK)
        if not first:
            return
        read = len(first)

        def rest(first: bytes = first) -> Iterator[bytes]:
            nonlocal read
            yield first.removesuffix(b"\n")
            if not first.endswith(b"\n"):
                for chunk in _line(file):
                    read += len(chunk)
                    yield chunk.removesuffix(b"\n")

        line = rest()
        yield place, from_start(line, path) if place == 0 else line
        for _ in line:
            pass
        place += read


def first_line_from(file: BinaryIO, start: int) -> int:
    """Go to the first line that begins at ``start`` or later, and return its place."""
    if not start:
        return 0
    file.seek(start - 1)  # a newline just before ``start`` makes the line at it the one
    return start - 1 + sum(map(len, _line(file)))


def _line(file: BinaryIO) -> Iterator[bytes]:
    """The rest of the line that the file's position is in, with its newline, in chunks."""
    while chunk := file.readline(CHUNK):
        yield chunk
        if chunk.endswith(b"\n"):
            return


def read_lddl(piece: Piece) -> Iterator[Document]:
    """LDDL's documents: a line up to its first white space is the id, what follows that character the text.

    Raises:
        InputError: most lines, or a very long one, have no id.
    """
    (path,) = piece.paths
    with_id = without_id = 0
    with reading(path), open_text(path, piece.encoding) as file:
        for place, line in lines(file, piece.start, piece.end, path):
            stretches = decode(line)
            first = next(stretches, None)
            if first is None or (not first.text.strip() and first.size < CHUNK - 4):
                continue
            white_space = _WHITE_SPACE.search(first.text)
            if white_space is None and first.size >= CHUNK - 4:
                what = f"a line of {path!r} begins with over {CHUNK:,} bytes without white space: it has no id"
                raise InputError(what, where=f"byte {place:,}", hint=_LDDL)
            if white_space is None:
                without_id += 1
                name = f"{path.removeprefix(piece.root)}:{place}"
                yield Document(name, "", first.replaced, first.nul, first.size, without_id=True)
                continue
            with_id += 1
            text = first._replace(text=first.text[white_space.end() :])
            yield from parts(first.text[: white_space.start()], chain((text,), stretches))
    if without_id >= _FEW and without_id > with_id:
        what = f"{without_id:,} of {without_id + with_id:,} lines of {path!r} have no id, as they have no white space"
        raise InputError(what, where="--corpus", hint=_LDDL)


_LDDL = "lddl: one document per line, <id><white space><text>; text: for plain files, bert: for a sentence per line"
