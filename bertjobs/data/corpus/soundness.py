"""How much of a corpus is not text: a little is replaced and counted, above a limit the file is refused.

Counted are U+FFFD put in for bytes that are not of the file's encoding, and NUL bytes. UTF-16 without a byte order mark
is full of NUL; Latin-1 of German has two such bytes in a hundred, of Dutch one in a thousand. JSON's escapes of NUL and
of half characters are counted and not held against a file: its bytes are valid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from bertjobs.data.corpus.document import decode
from bertjobs.data.corpus.encodings import (
    Foreign,
    Utf8Sign,
    as_utf8,
    check_byte_order,
    likely,
    of_start,
    refusal,
    refuse_utf8,
)
from bertjobs.data.corpus.files import File, compression, is_url, open_text, reading
from bertjobs.data.corpus.source import Document, Piece
from bertjobs.errors import BertjobsError, InputError

LIMIT = 0.001
"""Share of a file's bytes."""
LEAST = 5  # below that many, a share says nothing

_WINDOW = 1 << 16
_LOOKED_AT = 16  # files of a corpus, before any work begins
_SAMPLE = 1 << 15
_NAMED = 100  # files


def sound(
    read: Callable[[Piece], Iterator[Document]],
    piece: Piece,
    in_columns: bool = False,
    odd: dict[str, int] | None = None,
) -> Iterator[Document]:
    """The documents of a piece, as they are.

    Args:
        read: reads the documents of one of its files.
        in_columns: they are of a column of a table, whose bytes lie among others.
        odd: here is counted, by file below the root, what is not text; of the first hundred files that have any.

    Raises:
        InputError: too little of a file, or of small files together, is text; names the first one and what it likely
            is. Also in place of an error that such a file causes when it is read.
    """
    first_bad, all_bad, all_size = piece, 0, 0
    for path in piece.paths:
        file, bad, size, escaped = replace(piece, paths=(path,)), 0, 0, 0
        try:
            for document in read(file):
                bad, size = bad + document.replaced + document.nul - document.escaped, size + document.size
                escaped += document.escaped
                if bad:
                    _judge(file, bad, max(size, piece.text_bytes), in_columns)
                yield document
        except InputError as error:
            if not in_columns and (better := _cause(file)):
                raise better from error
            raise
        _judge(file, bad, size, in_columns)
        first_bad = file if bad and not all_bad else first_bad
        all_bad, all_size = all_bad + bad, all_size + size
        if bad + escaped and odd is not None and len(odd) < _NAMED:
            odd[path.removeprefix(piece.root)] = bad + escaped
    _judge(first_bad, all_bad, all_size, in_columns)


def most_odd(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The hundred files in which most is not text, as ``sound`` counted it, the worst first."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))[:_NAMED])


def too_much(bad: int, size: int) -> bool:
    """Whether so many bytes of so many are more than is replaced."""
    return bad >= LEAST and bad > LIMIT * size


def _judge(file: Piece, bad: int, size: int, in_columns: bool) -> None:
    if not too_much(bad, size):
        return
    (path, *_), share = file.paths, min(1, bad / size)
    if in_columns:
        raise InputError(
            f"{share:.2%} of the bytes in column {file.field!r} of {path!r} are not UTF-8", where="--corpus",
            hint="write the column again from text that was decoded correctly",
        )  # fmt: skip
    raise refusal(path, likely(_bad_sample(file)), share, file.encoding)


def _cause(file: Piece) -> InputError | None:
    """The error for a file that begins with something else than text, which another error may come from."""
    (path,) = file.paths
    with suppress(BertjobsError, OSError, EOFError, ValueError), open_text(path) as text:
        head = text.read(_WINDOW)
        bad, size = _bad_bytes(head, file.encoding)
        if too_much(bad, size):
            return refusal(path, likely(head), bad / size, file.encoding)
    return None


def _bad_sample(file: Piece) -> bytes:
    """Some of a file's bytes in which there are many that are not UTF-8; its first ones if there are none."""
    (path,), first = file.paths, b""
    with reading(path), open_text(path) as text:
        if file.start and not compression(path):
            text.seek(file.start // 4 * 4)  # units of two and of four bytes stay whole
        while block := text.read(_SAMPLE):
            if _bad_bytes(block, "")[0] >= LEAST:
                return block
            first = first or block
    return first


def look_at(files: Sequence[File], encoding: str) -> None:
    """Look into some files of a corpus, so that most of what ``sound`` would refuse is refused before work is queued.

    Raises:
        InputError: as ``sound``.
    """
    chosen = files[:: -(-len(files) // _LOOKED_AT)]
    for file in chosen:
        if is_url(file.path) and len(files) > 1:
            continue
        with reading(file.path):
            try:
                _look_at(file, encoding)
            except _ForeignError as error:
                others = any(_is_utf8(other) for other in chosen if not encoding and other is not file)
                raise refusal(file.path, error.what, error.share, encoding, others) from None


class _ForeignError(Exception):
    """A file is not in its encoding: what it looks like, and how much of it is not text."""

    def __init__(self, what: Foreign, share: float = 0) -> None:
        super().__init__()
        self.what, self.share = what, share


def _is_utf8(file: File) -> bool:
    """Whether a file begins with text of UTF-8 that is not ASCII alone."""
    with suppress(BertjobsError, OSError, EOFError, ValueError), open_text(file.path) as text:
        head = text.read(_WINDOW)
        return Utf8Sign("latin-1").sees(head, final=len(head) < _WINDOW)
    return False


def _look_at(file: File, encoding: str) -> None:
    places = [0]
    if not file.compressed and not encoding and file.seekable and file.size > 4 * _WINDOW:
        places += [file.size // 2, file.size - _WINDOW]
    windows = []
    with open_text(file.path) as text:
        for place in places:
            if place:
                text.seek(place)
            windows.append(text.read(_WINDOW))
    _check_start(windows[0], encoding, file.path)
    if encoding:
        refuse_utf8(Utf8Sign(encoding).sees(windows[0], final=len(windows[0]) < _WINDOW), encoding, file.path)
    counts = [_bad_bytes(window, encoding) for window in windows]
    if all(bad > LIMIT * size for bad, size in counts):
        bad, size = map(sum, zip(*counts, strict=True))
        if too_much(bad, size):
            raise _ForeignError(likely(windows[0]), bad / size)


def _check_start(head: bytes, encoding: str, path: str) -> None:
    """_ForeignError for a file that begins as no text of this encoding ("": UTF-8) does."""
    if encoding:
        check_byte_order(head, encoding, path)
    if (foreign := of_start(head)) is not None and not (encoding and foreign.text):
        raise _ForeignError(foreign)


def _bad_bytes(raw: bytes, encoding: str) -> tuple[int, int]:
    """How many characters are put in for bytes that are no text, NUL counted too, and how many bytes there are."""
    texts = list(decode(as_utf8(iter((raw,)), encoding) if encoding else (raw,)))
    return sum(text.replaced + text.nul for text in texts), len(raw)
