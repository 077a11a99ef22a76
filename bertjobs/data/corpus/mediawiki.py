"""MediaWiki XML dumps (``pages-articles``): one document per article, read as a stream.

A dump is scanned for ``<page>`` and ``</page>``, which its texts cannot hold (``<`` is escaped there). So a plain dump
can be cut at any byte, and a ``.bz2`` dump of many streams at any stream: a page belongs to where its tag begins.
Format: https://www.mediawiki.org/wiki/Help:Export
"""

from __future__ import annotations

import bz2
import html
import os
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from bertjobs.data.corpus.document import CHUNK, Decoded, decode, parts
from bertjobs.data.corpus.files import EXPANSION, File, chunks, open_raw, open_text, reading
from bertjobs.data.corpus.lines import byte_ranges
from bertjobs.data.corpus.source import Document, Piece
from bertjobs.data.corpus.wikidata import refuse_wikidata
from bertjobs.data.corpus.wikitext import MEDIA_NAMES, read_article
from bertjobs.errors import InputError

MAX_PAGE = 16 << 20
"""Bytes of a page at most; Wikipedia's limit is 2 MiB of text."""

_HEAD = 1 << 16
_TAIL = 1000  # bytes: in less, the end tag may have begun in the piece before
_OPEN, _CLOSE, _END = b"<page>", b"</page>", b"</mediawiki>"
_STREAM = re.compile(rb"BZh[1-9]1AY&SY")  # a stream's header and its first block's, which are byte-aligned
_TEXT = re.compile(rb"<text\b[^>]*(?<!/)>(.*?)</text>", re.DOTALL)
_ID = re.compile(rb"<id>(\d+)</id>")
_NAMESPACE = re.compile(rb"<ns>(-?\d+)</ns>")
_MODEL = re.compile(rb"<model>([^<]+)</model>")
_LANGUAGE = re.compile(rb"<mediawiki\b[^>]*\bxml:lang=\"([a-zA-Z]+)")
_MEDIA_NAMESPACE = re.compile(rb'<namespace key="(?:6|14|-2)"[^>]*>([^<]+)</namespace>')


def dump_ranges(file: File, piece_bytes: int, _field: str = "") -> Iterator[tuple[int, int, int]]:
    """``(start, end, bytes of text)`` of a dump's pieces: byte ranges, of a .bz2 dump those of whole streams."""
    if not file.path.lower().endswith(".bz2") or not file.seekable:
        yield from byte_ranges(file, piece_bytes)
        return
    start = 0
    with reading(file.path), open_raw(file.path) as raw:
        for stream in _streams(raw):
            if (stream - start) * EXPANSION >= piece_bytes:
                yield start, stream, (stream - start) * EXPANSION
                start = stream
    yield start, file.size, (file.size - start) * EXPANSION


def _streams(raw: BinaryIO) -> Iterator[int]:
    """Where the streams of a .bz2 file begin."""
    place, tail = 0, b""
    for chunk in chunks(raw):
        text = tail + chunk
        for match in _STREAM.finditer(text):
            yield place + match.start()
        tail = text[-9:]  # one byte less than the pattern
        place += len(text) - len(tail)


class Wiki(NamedTuple):
    """What a dump says of its wiki: the lower-case names of the namespaces of files and categories, which are not text;
    and its language, as "en"."""

    media_names: frozenset[str]
    language: str


def read_dump(piece: Piece) -> Iterator[Document]:
    """The articles of a piece as prose: namespace 0, no redirects. A document's id is its page's; that of an article
    without prose, and that of a page of another model than wikitext, has no text.

    Raises:
        InputError: not a dump, one of Wikidata, a truncated one, or a page too long to be an article.
    """
    (path,) = piece.paths
    with reading(path):
        wiki = _wiki(path)
        with open_text(path) if piece.end < 0 else open_raw(path) as file:
            last = piece.end < 0 or piece.end >= file.seek(0, os.SEEK_END)
            own: Iterator[bytes]
            beyond: Iterator[bytes]
            if piece.end < 0:
                own, beyond = chunks(file), iter(())
            elif path.lower().endswith(".bz2"):
                own, beyond = _decompressed(file, piece.start, piece.end), _decompressed(file, piece.end, -1)
            else:
                own, beyond = _range(file, piece.start, piece.end), chunks(file)
            for page in _pages(own, beyond, last, path):
                yield from _article(page, wiki)


def _wiki(path: str) -> Wiki:
    with open_text(path) as file:
        head = file.read(_HEAD)
    if b"<mediawiki" not in head:
        raise InputError(
            f"{path!r} is not a MediaWiki XML dump: it has no <mediawiki> at its start",
            where="--corpus",
            hint="for instance enwiki-latest-pages-articles-multistream.xml.bz2",
        )
    refuse_wikidata(head, path)
    names = {html.unescape(name.decode("utf-8", "replace")).lower() for name in _MEDIA_NAMESPACE.findall(head)}
    language = _LANGUAGE.search(head)
    return Wiki(MEDIA_NAMES | names, language[1].decode().lower() if language else "en")


def _range(raw: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    raw.seek(start)
    while start < end and (chunk := raw.read(min(CHUNK, end - start))):
        start += len(chunk)
        yield chunk


def _decompressed(raw: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """What the bz2 streams in ``[start, end)`` of a file hold (``end`` -1: to its end)."""
    raw.seek(start)
    decompressor = bz2.BZ2Decompressor()
    fed = False
    source = chunks(raw) if end < 0 else _range(raw, start, end)
    for compressed in source:
        while compressed or not (decompressor.needs_input or decompressor.eof):
            if decompressor.eof:
                decompressor = bz2.BZ2Decompressor()
            fed = True
            text = decompressor.decompress(compressed, CHUNK)
            compressed = decompressor.unused_data if decompressor.eof else b""
            yield text
    if fed and not decompressor.eof:
        raise EOFError


def _pages(own: Iterable[bytes], beyond: Iterable[bytes], last: bool, path: str) -> Iterator[bytes]:
    """The XML of each page that begins in ``own``; ``beyond`` is what follows, of which the last page may need some.

    ``last``: the dump must end in ``own``.
    """
    text, ended, seen = b"", False, 0
    for chunk in own:
        seen += len(chunk)
        text += chunk
        place, begin = 0, text.find(_OPEN)
        while begin >= 0 and (close := text.find(_CLOSE, begin)) >= 0:
            place = close + len(_CLOSE)
            yield text[begin:place]
            begin = text.find(_OPEN, place)
        ended = ended or _END in text[place:]
        text = text[begin if begin >= 0 else max(place, len(text) - len(_END) + 1) :]
        _check_length(text, path)
    if last and not ended and seen >= _TAIL:
        raise EOFError
    owned = len(text)
    following = iter(beyond)
    while (begin := text.find(_OPEN)) >= 0 or any(text.endswith(_OPEN[:length]) for length in range(1, len(_OPEN))):
        if begin >= owned:
            return
        if begin >= 0 and (close := text.find(_CLOSE, begin)) >= 0:
            yield text[begin : close + len(_CLOSE)]
            return
        chunk = next(following, b"")
        if not chunk:
            raise EOFError
        text += chunk
        _check_length(text, path)


def _check_length(text: bytes, path: str) -> None:
    if len(text) > MAX_PAGE:
        number = _ID.search(text)
        raise InputError(
            f"page {number[1].decode() if number else '?'} of {path!r} is longer than {MAX_PAGE:,} bytes",
            where="--corpus",
            hint="a dump of all revisions? take the one named pages-articles",
        )


def _article(page: bytes, wiki: Wiki) -> Iterator[Document]:
    namespace = _NAMESPACE.search(page)
    if b"<redirect" in page or (namespace and namespace[1] != b"0"):
        return
    number, texts, models = _ID.search(page), _TEXT.findall(page), _MODEL.findall(page)
    if number is None:
        return
    if models and models[-1] != b"wikitext":
        yield Document(number[1].decode(), "", 0, 0, len(page), model=models[-1].decode("utf-8", "replace"))
        return
    stretches = list(decode(texts[-1:]))  # of several revisions, the last
    source = html.unescape("".join(stretch.text for stretch in stretches))
    text, short = read_article(source, wiki.media_names, wiki.language)
    replaced, nul = sum(stretch.replaced for stretch in stretches), sum(stretch.nul for stretch in stretches)
    yield from parts(number[1].decode(), [Decoded(text, replaced, nul, len(page), short=short)])
