"""Bytes to documents: UTF-8 with replacement, NUL bytes out, very long texts in parts, all in bounded memory."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bertjobs.data.corpus.encodings import of_start, refusal
from bertjobs.data.corpus.source import Document

MAX_DOCUMENT = 2_000_000
"""Characters of a document at most; what is longer is cut at white space into parts."""

CHUNK = 1 << 20
"""Bytes read at a time."""

_REPLACEMENT = "\ufffd"
_REPLACEMENT_BYTES = _REPLACEMENT.encode()
_SURROGATES = re.compile("[\ud800-\udfff]")


class Decoded(NamedTuple):
    """A stretch of text: how many U+FFFD were put into it and NUL removed from it, how many bytes it was, and how many
    of both were JSON's escapes: valid bytes, which say nothing against the file's encoding; of these, those that stand
    for half a character; and how many short paragraphs of a wiki's article are not part of it."""

    text: str
    replaced: int
    nul: int
    size: int
    escaped: int = 0
    halves: int = 0
    short: int = 0

    def with_counts(self, other: Decoded) -> Decoded:
        """This text with the counts of ``other`` added; the size is that of ``other``."""
        return Decoded(self.text, self.replaced + other.replaced, self.nul + other.nul, other.size,
                       self.escaped + other.escaped, self.halves + other.halves, self.short + other.short)  # fmt: skip


_NOTHING = Decoded("", 0, 0, 0)


def decode(chunks: Iterable[bytes]) -> Iterator[Decoded]:
    """The text of consecutive chunks of UTF-8; a character may span two chunks."""
    rest = b""
    for chunk in chunks:
        raw = rest + chunk if rest else chunk
        decoded, used = _decode(raw, False)
        rest = raw[used:]
        yield decoded
    if rest:
        yield _decode(rest, True)[0]


def decode_whole(raw: bytes) -> Decoded:
    """The text of some UTF-8."""
    return _decode(raw, True)[0]


def _decode(raw: bytes, final: bool) -> tuple[Decoded, int]:
    text, used = codecs.utf_8_decode(raw, "replace", final)
    replaced = 0
    if _REPLACEMENT in text:
        replaced = text.count(_REPLACEMENT) - raw[:used].count(_REPLACEMENT_BYTES)
    nul = text.count("\0")
    return Decoded(text.replace("\0", "") if nul else text, replaced, nul, used), used


def sound(text: str, read: Decoded = _NOTHING) -> Decoded:
    """``text``, of JSON that was ``read``, without the NUL and the lone surrogates that its escapes can make."""
    text, replaced = _SURROGATES.subn(_REPLACEMENT, text)
    nul = text.count("\0")
    own = Decoded(text.replace("\0", "") if nul else text, replaced, nul, 0, replaced + nul, replaced)
    return own.with_counts(read)


def from_start(chunks: Iterable[bytes], path: str) -> Iterator[bytes]:
    """The chunks of a file from its start on, less UTF-8's byte order mark.

    Raises:
        InputError: it begins with another encoding's mark, or as a binary file.
    """
    first = True
    for chunk in chunks:
        if first and (foreign := of_start(chunk)) is not None:
            raise refusal(path, foreign)
        yield chunk.removeprefix(codecs.BOM_UTF8) if first else chunk
        first = False


def parts(identifier: str, stretches: Iterable[Decoded], longest: int = MAX_DOCUMENT) -> Iterator[Document]:
    """The document of consecutive stretches, in parts of at most ``longest`` characters.

    A part ends at its last white space, or where it must when it has none. Parts of white space alone are left out
    and do not count; where there is no other, there is one document without text, so that it is counted. Holds about
    ``longest`` characters and one stretch in memory.
    """
    text, counts, number = "", _NOTHING, 1
    for stretch in stretches:
        text = text + stretch.text if text else stretch.text
        counts = _sum(counts, stretch)
        while len(text) > longest:
            end = _last_white_space(text, longest)
            part, text = text[:end], text[end:]
            if not part.isspace():
                yield _document(_part(identifier, number), part, counts)
                counts = _NOTHING
                number += 1
    if text and not text.isspace():
        yield _document(_part(identifier, number), text, counts)
    elif number == 1:
        yield _document(identifier, "", counts)


def _sum(counts: Decoded, stretch: Decoded) -> Decoded:
    """The counts of both, without text."""
    return Decoded("", *(one + other for one, other in zip(counts[1:], stretch[1:], strict=True)))


def _document(identifier: str, text: str, counts: Decoded) -> Document:
    _, replaced, nul, size, escaped, halves, short = counts
    return Document(identifier, text, replaced, nul, size, escaped=escaped, halves=halves, short_paragraphs=short)


def _part(identifier: str, number: int) -> str:
    return identifier if number == 1 else f"{identifier}#{number}"


def _last_white_space(text: str, longest: int) -> int:
    """Where to cut: after the last white space of the first ``longest`` characters, else after all of them."""
    for low in (max(0, longest - 1000), 0):
        window = text[low:longest]
        last_word = window.rsplit(maxsplit=1)[-1:]
        if not last_word:
            return longest
        end = longest if window[-1].isspace() else longest - len(last_word[0])
        if end > low:
            return end
    return longest
