"""How much of a corpus is not text: a little is replaced and counted, above a limit the file is refused.

Counted are U+FFFD put in for bytes that are not of the file's encoding, and NUL bytes. UTF-16 without a byte order mark
is full of NUL; Latin-1 of German has two such bytes in a hundred, of Dutch one in a thousand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from bertjobs.data.corpus.document import decode
from bertjobs.data.corpus.encodings import as_utf8, check_byte_order, likely, of_start, refusal
from bertjobs.data.corpus.files import COMPRESSIONS, File, is_url, open_text, reading
from bertjobs.data.corpus.source import Document, Piece
from bertjobs.errors import BertjobsError, InputError

LIMIT = 0.001
"""Share of a file's bytes."""
LEAST = 5  # below that many, a share says nothing

_WINDOW = 1 << 16
_LOOKED_AT = 16  # files of a corpus, before any work begins
_SAMPLE = 1 << 15
_NAMED = 100  # files


def sound(documents: Iterator[Document], piece: Piece, in_columns: bool = False) -> Iterator[Document]:
    """The documents of a piece, as they are.

    Args:
        in_columns: they are of a column of a table, whose bytes lie among others.

    Raises:
        InputError: too little of a file, or of small files together, is text; names the first one and what it likely
            is. Also in place of an error that such a file causes when it is read.
    """
    names = {path.removeprefix(piece.root): path for path in piece.paths}
    current, bad, size, all_bad, all_size = piece.paths[0], 0, 0, 0, 0
    first_bad = ""
    try:
        for document in documents:
            path = names[file_name(piece, document)]
            if path != current:
                _judge(current, piece, bad, size, in_columns)
                current, bad, size = path, 0, 0
            odd = document.replaced + document.nul
            bad, size, all_bad, all_size = bad + odd, size + document.size, all_bad + odd, all_size + document.size
            if odd:
                first_bad = first_bad or path
                _judge(first_bad, piece, all_bad, max(all_size, piece.text_bytes), in_columns)
            yield document
    except InputError as error:
        if not in_columns and len(piece.paths) == 1 and (better := _cause(current, piece)):
            raise better from error
        raise
    _judge(current, piece, bad, size, in_columns)
    _judge(first_bad, piece, all_bad, all_size, in_columns)


def file_name(piece: Piece, document: Document) -> str:
    """The file below the piece's root that a document is of."""
    first = piece.paths[0].removeprefix(piece.root)
    if len(piece.paths) == 1:
        return first
    name, _, part = document.id.rpartition("#")  # files of text: the id is the name, with the part's number
    return name if part.isdecimal() and piece.root + name in piece.paths else document.id


def with_odd_files(documents: Iterator[Document], piece: Piece, odd: dict[str, int]) -> Iterator[Document]:
    """The documents; in ``odd`` is counted, by file, what in them is not text. Of further files after the first
    hundred nothing is counted."""
    for document in documents:
        if count := document.replaced + document.nul:
            name = file_name(piece, document)
            if name in odd or len(odd) < _NAMED:
                odd[name] = odd.get(name, 0) + count
        yield document


def most_odd(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The hundred files in which most is not text, as counted by ``with_odd_files``, the worst first."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))[:_NAMED])


def too_much(bad: int, size: int) -> bool:
    """Whether so many bytes of so many are more than is replaced."""
    return bad >= LEAST and bad > LIMIT * size


def _judge(path: str, piece: Piece, bad: int, size: int, in_columns: bool) -> None:
    if not too_much(bad, size):
        return
    share = min(1, bad / size)
    if in_columns:
        raise InputError(
            f"{share:.2%} of the bytes in column {piece.field!r} of {path!r} are not UTF-8", where="--corpus",
            hint="write the column again from text that was decoded rightly",
        )  # fmt: skip
    raise refusal(path, likely(_bad_sample(path, piece)), share, piece.encoding)


def _cause(path: str, piece: Piece) -> InputError | None:
    """The error for a file that begins with something else than text, which another error may come from."""
    with suppress(BertjobsError, OSError, EOFError, ValueError), open_text(path) as file:
        head = file.read(_WINDOW)
        bad, size = _bad_bytes(head, piece.encoding)
        if too_much(bad, size):
            return refusal(path, likely(head), bad / size, piece.encoding)
    return None


def _bad_sample(path: str, piece: Piece) -> bytes:
    """Some of a piece's bytes in which there are many that are not UTF-8; its first ones if there are none."""
    first = b""
    with reading(path), open_text(path) as file:
        # Units of two and of four bytes stay whole.
        file.seek(0 if path.endswith(COMPRESSIONS) else piece.start // 4 * 4)
        while block := file.read(_SAMPLE):
            if _bad_bytes(block, "")[0] >= LEAST:
                return block
            first = first or block
    return first


def look_at(files: Sequence[File], encoding: str) -> None:
    """Look into some files of a corpus, so that most of what ``sound`` would refuse is refused before work is queued.

    Raises:
        InputError: as ``sound``.
    """
    for file in files[:: -(-len(files) // _LOOKED_AT)]:
        if is_url(file.path) and len(files) > 1:
            continue
        with reading(file.path):
            _look_at(file, encoding)


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
    check_start(windows[0], encoding, file.path)
    counts = [_bad_bytes(window, encoding) for window in windows]
    if all(bad > LIMIT * size for bad, size in counts):
        bad, size = map(sum, zip(*counts, strict=True))
        if too_much(bad, size):
            raise refusal(file.path, likely(windows[0]), bad / size, encoding)


def check_start(head: bytes, encoding: str, path: str) -> None:
    """InputError for a file that begins as no text of this encoding ("": UTF-8) does."""
    if encoding:
        check_byte_order(head, encoding, path)
    if (foreign := of_start(head)) is not None and not (encoding and foreign.text):
        raise refusal(path, foreign, given=encoding)


def _bad_bytes(raw: bytes, encoding: str) -> tuple[int, int]:
    """How many characters are put in for bytes that are no text, NUL counted too, and how many bytes there are."""
    texts = list(decode(as_utf8(iter((raw,)), encoding) if encoding else (raw,)))
    return sum(text.replaced + text.nul for text in texts), len(raw)
