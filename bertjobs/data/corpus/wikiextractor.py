"""What WikiExtractor wrote: ``<doc id= url= title=>`` elements or, after ``--json``, one JSON object per line.

Each line of an article is a paragraph, a heading or an item of a list, so an empty line is put between them. The marks
that some versions write before headings and items are dropped, and so is a first line that repeats the title. Text is
escaped as in HTML. Format: https://attardi.github.io/wikiextractor/
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

from bertjobs.data.corpus.document import Decoded, decode_whole, from_start, parts, sound
from bertjobs.data.corpus.files import open_text, reading
from bertjobs.data.corpus.lines import first_line_from
from bertjobs.data.corpus.mediawiki import MAX_PAGE
from bertjobs.data.corpus.source import Document, Piece
from bertjobs.errors import InputError

_OPEN = re.compile(r'<doc id="([^"]*)"(?:.* title="(.*)")?[^"]*>\s*\Z')
_CLOSE = b"</doc>"
_MARK = re.compile(r"Section::::|BULLET::::(?:- |\d+\. )?|##+ ")
_MARKED = ("Section::::", "BULLET::::", "##")


class _Article(NamedTuple):
    """An article: its id and title, and its text with what was replaced in it."""

    number: str
    title: str
    text: Decoded


def read_wikiextractor(piece: Piece) -> Iterator[Document]:
    """The articles of a piece. A document's id is its article's; one without text has an empty text.

    Raises:
        InputError: a file that WikiExtractor did not write; names file and byte.
    """
    for path in piece.paths:
        with reading(path), open_text(path, piece.encoding) as file:
            for number, title, text in _articles(file, piece.start, piece.end, path):
                clean = text._replace(text=_paragraphs(text.text, title))
                yield from parts(number, [clean])


def _paragraphs(text: str, title: str) -> str:
    lines = (_unmarked(line) for raw in html.unescape(text).split("\n") if (line := raw.strip()))
    first = next(lines, "")
    return "\n\n".join(lines if first == html.unescape(title).strip() else chain([first], lines))


def _unmarked(line: str) -> str:
    mark = _MARK.match(line) if line.startswith(_MARKED) else None
    return line[mark.end() :] if mark else line


def _articles(file: BinaryIO, start: int, end: int, path: str) -> Iterator[_Article]:
    """The articles that begin in ``[start, end)`` (``end`` -1: to the file's end)."""
    lines = _lines(file, 0, path)
    first = next((one for one in lines if one[1].strip()), None)
    if first is None:
        return
    if not first[1].startswith((b"<doc ", b"{")):
        raise _wrong(path, first[0], "WikiExtractor begins a file with <doc id=... or {")
    lines = _lines(file, first_line_from(file, start), path) if start else chain([first], lines)
    read = _of_json if first[1].startswith(b"{") else _of_elements
    yield from read(lines, start, end, path)


def _lines(file: BinaryIO, place: int, path: str) -> Iterator[tuple[int, bytes]]:
    """The lines from ``place`` on, where the file's position is, each with its place."""
    while line := file.readline(MAX_PAGE):
        yield place, line if place else b"".join(from_start([line], path))
        place += len(line)


def _of_json(lines: Iterator[tuple[int, bytes]], _start: int, end: int, path: str) -> Iterator[_Article]:
    for place, line in lines:
        if 0 <= end <= place:
            return
        if not line.strip():
            continue
        raw = decode_whole(line)
        try:
            entry: Any = json.loads(raw.text)
            number, title, text = str(entry["id"]), str(entry.get("title", "")), entry["text"]
            clean = sound(text, raw)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _wrong(path, place, f"a JSON object with id, title and text was expected ({error})") from error
        yield _Article(number, title, clean)


def _of_elements(lines: Iterator[tuple[int, bytes]], start: int, end: int, path: str) -> Iterator[_Article]:
    inside = start > 0  # perhaps in an article of the piece before
    for place, line in lines:
        if 0 <= end <= place:
            return
        if line.startswith(b"<doc ") and (opened := _OPEN.match(decode_whole(line).text)):
            inside = False
            yield _Article(opened[1], opened[2] or "", decode_whole(_until_close(lines, place, path)))
        elif not inside and line.strip():
            raise _wrong(path, place, "after </doc> comes <doc id=... or the file's end")


def _until_close(lines: Iterator[tuple[int, bytes]], place: int, path: str) -> bytes:
    held: list[bytes] = []
    size = 0
    for _, line in lines:
        if line.rstrip() == _CLOSE:
            return b"".join(held)
        if line.startswith(b"<doc id="):
            raise _wrong(path, place, "this <doc> is not closed before the next one")
        held.append(line)
        size += len(line)
        if size > MAX_PAGE:
            raise _wrong(path, place, f"this <doc> is longer than {MAX_PAGE:,} bytes")
    raise EOFError


def _wrong(path: str, place: int, why: str) -> InputError:
    return InputError(
        f"{path!r} is not what WikiExtractor writes: {why}",
        where=f"byte {place:,}",
        hint="the dump itself is read with mediawiki:PATH, other JSON lines with jsonl:PATH",
    )
