"""JSON lines: one JSON object per line, its text in one field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain

from bertjobs.data.corpus.document import Decoded, decode, parts, sound
from bertjobs.data.corpus.files import chunks, open_text, reading
from bertjobs.data.corpus.lines import lines
from bertjobs.data.corpus.source import Document, Piece
from bertjobs.data.corpus.wikidata import refuse_wikidata
from bertjobs.errors import InputError

_HEAD = 1 << 16  # bytes


def read_jsonl(piece: Piece) -> Iterator[Document]:
    """The texts of a piece's lines, "" where it is null; blank lines are skipped.

    Raises:
        InputError: a line that is not a JSON object, or has no string in the field; names file and line.
    """
    (path,) = piece.paths
    name = path.removeprefix(piece.root)
    with reading(path), open_text(path, piece.encoding) as file:
        for place, line in lines(file, piece.start, piece.end, path):
            stretches = decode(line)
            first = next(stretches, None)
            second = next(stretches, None)
            if first is None or (second is None and not first.text.strip()):
                continue
            try:
                if second is None:
                    text = _text_of(first, piece.field)
                else:
                    text = _text_of_long(chain((first, second), stretches), piece.field)
                yield from parts(f"{name}:{place}", text)
            except (ValueError, RecursionError) as error:
                _refuse_wikidata(path, piece.encoding)
                raise InputError(
                    f"line {_line_number(path, piece.encoding, place):,} of {path!r} {_reason(error)}",
                    where="--corpus",
                    hint="jsonl: one JSON object per line; #field=NAME after the path names the field with the text",
                ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, _NoText):
        return str(error)
    return f"is not a JSON object: {error}"


class _NoText(ValueError):
    """A JSON object without a string in its field."""


def _text_of(line: Decoded, field: str) -> Iterator[Decoded]:
    value = json.loads(line.text)
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}")
    if field not in value:
        raise _NoText(f"has no field {field!r}; it has: {', '.join(map(repr, list(value)[:20])) or 'none'}")
    text = value[field]
    if text is None:
        return iter(())
    if not isinstance(text, str):
        raise _NoText(f"has no text in field {field!r}, but a {type(text).__name__}")
    return iter((sound(text, line),))


def _refuse_wikidata(path: str, encoding: str) -> None:
    with open_text(path, encoding) as file:
        refuse_wikidata(file.read(_HEAD), path)


def _line_number(path: str, encoding: str, place: int) -> int:
    """The number, from 1, of the line that begins at byte ``place``."""
    number = 1
    with open_text(path, encoding) as file:
        for chunk in chunks(file):
            number += chunk[:place].count(b"\n")
            place -= min(place, len(chunk))
            if not place:
                break
    return number


# A line longer than a chunk is scanned, so that it is never in memory as a whole.

_SPACE = re.compile(r"[ \t\r\n]*+")
_SCALAR = re.compile(r"[^\s{}\[\]:,\"]++")
_STRING = re.compile(r'(?:[^"\\]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')
_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")


class _Scanner:
    """Reads the tokens of JSON from stretches of text."""

    def __init__(self, stretches: Iterator[Decoded]):
        self._stretches = stretches
        self._text, self._place = "", 0
        self._counts = Decoded("", 0, 0, 0)

    def _more(self) -> bool:
        stretch = next(self._stretches, None)
        if stretch is None:
            return False
        self._text, self._place = self._text[self._place :] + stretch.text, 0
        old = self._counts
        self._counts = Decoded("", old.replaced + stretch.replaced, old.nul + stretch.nul, old.size + stretch.size)
        return True

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            self._place = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._more():
                return ""

    def expect(self, character: str) -> None:
        if self.peek() != character:
            raise ValueError(f"{self.peek() or 'its end'!r} where {character!r} was expected")
        self._place += 1

    def string(self) -> Iterator[Decoded]:
        """The string that begins here, in stretches."""
        self.expect('"')
        while True:
            end = _STRING.match(self._text, self._place).end()  # type: ignore[union-attr]
            closed = self._text[end : end + 1] == '"'
            if not closed and (high := _HIGH_SURROGATE.search(self._text, max(self._place, end - 6), end)):
                end = high.start()  # its other half may come next
            counts, self._counts = self._counts, Decoded("", 0, 0, 0)
            yield sound(json.loads(f'"{self._text[self._place : end]}"'), counts)
            self._place = end + closed
            if closed:
                return
            if len(self._text) - end > 12 or not self._more():
                raise ValueError("an unterminated string, or an invalid escape in one")

    def skip(self) -> None:
        """Skips one value."""
        depth = 0
        while True:
            character = self.peek()
            if character == '"':
                for _ in self.string():
                    pass
            elif character and character in "{[":
                depth += 1
                self._place += 1
            elif character and character in "}],:":
                depth -= character in "}]"
                self._place += 1
            elif not self._scalar():
                raise ValueError("it ends too early")
            if depth <= 0:
                return

    def _scalar(self) -> bool:
        """Skips a number or word, or as much of it as has been read."""
        match = _SCALAR.match(self._text, self._place)
        if match:
            self._place = match.end()
        return match is not None


def _text_of_long(stretches: Iterator[Decoded], field: str) -> Iterator[Decoded]:
    scanner = _Scanner(stretches)
    scanner.expect("{")
    has_field = False
    while scanner.peek() == '"':
        key = "".join(part.text for part in scanner.string())
        scanner.expect(":")
        if key == field and not has_field:
            has_field = True
            if scanner.peek() == '"':
                yield from scanner.string()
            elif scanner.peek() == "n":
                scanner.skip()
            else:
                raise _NoText(f"has no text in field {field!r}")
        else:
            scanner.skip()
        if scanner.peek() != ",":
            break
        scanner.expect(",")
    scanner.expect("}")
    if scanner.peek():
        raise ValueError("there is more after the object")
    if not has_field:
        raise _NoText(f"has no field {field!r}")
