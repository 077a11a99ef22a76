"""The table of kinds: how each is found, cut into pieces and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from bertjobs.data.corpus.bert_lines import read_bert
from bertjobs.data.corpus.columns import find_hf, read_hf, read_parquet, record_batches, row_groups
from bertjobs.data.corpus.files import File, find
from bertjobs.data.corpus.json_lines import read_jsonl
from bertjobs.data.corpus.lines import byte_ranges, read_lddl
from bertjobs.data.corpus.plain import groups, read_text, uncut
from bertjobs.data.corpus.soundness import look_at, sound
from bertjobs.data.corpus.source import Document, Piece, Source
from bertjobs.data.corpus.unread import UnreadFiles
from bertjobs.errors import InputError


def pieces(index: int, source: Source, piece_bytes: int, unread: UnreadFiles | None = None) -> Iterator[Piece]:
    """The pieces of one source, in the order of its files; ``unread`` and what is raised are as in ``scan``."""
    kind = _KINDS[source.kind]
    root, files = find_hf(source) if source.kind == "hf" else find(source, unread)
    files = [replace(file, cut=not source.encoding) for file in files if file.size]
    if not files:
        raise InputError(f"corpus {str(source)!r} holds no text", where="--corpus")
    if kind.in_columns:
        _check_parts(files, source.kind)
    else:
        look_at(files, source.encoding)
    for group in groups(files, piece_bytes) if kind.small_files else ([file] for file in files):
        if len(group) > 1:
            yield _piece(index, group, 0, -1, sum(file.text_bytes for file in group), root, source)
            continue
        for start, end, size in kind.cut(group[0], piece_bytes, source.field):
            yield _piece(index, group, start, end, size, root, source)


def _piece(index: int, files: Sequence[File], start: int, end: int, size: int, root: str, source: Source) -> Piece:
    return Piece(
        source=index,
        paths=tuple(file.path for file in files),
        start=start,
        end=end,
        text_bytes=size,
        root=root,
        field=source.field,
        encoding=source.encoding,
        sizes=tuple(file.size for file in files),
        versions=tuple(file.version for file in files),
    )


def _check_parts(files: Sequence[File], kind: str) -> None:
    for file in files:
        if not file.seekable:
            raise InputError(
                f"the server of {file.path!r} cannot send parts of a file, and a {kind} file is read in parts",
                where="--corpus",
                hint="download it first",
            )


def read_piece(piece: Piece, kind: str, odd: dict[str, int] | None = None) -> Iterator[Document]:
    """The documents of a piece of this kind, also those without text. Raises InputError as ``read`` does."""
    return sound(_KINDS[kind].read, piece, _KINDS[kind].in_columns, odd)


# Wikipedia's readers are imported when they are used: their patterns take 10 ms, and most corpora need none.
def _dump_ranges(file: File, piece_bytes: int, field: str) -> Iterator[tuple[int, int, int]]:
    from bertjobs.data.corpus.mediawiki import dump_ranges

    return dump_ranges(file, piece_bytes, field)


def _read_dump(piece: Piece) -> Iterator[Document]:
    from bertjobs.data.corpus.mediawiki import read_dump

    return read_dump(piece)


def _read_wikiextractor(piece: Piece) -> Iterator[Document]:
    from bertjobs.data.corpus.wikiextractor import read_wikiextractor

    return read_wikiextractor(piece)


class _Kind(NamedTuple):
    """Where a file of a kind may be cut, a piece's documents, whether small files are read together, and whether the
    text is in a column of a table."""

    cut: Callable[[File, int, str], Iterator[tuple[int, int, int]]]
    read: Callable[[Piece], Iterator[Document]]
    small_files: bool = False
    in_columns: bool = False


_KINDS = {
    "text": _Kind(uncut, read_text, small_files=True),
    "lddl": _Kind(byte_ranges, read_lddl),
    "jsonl": _Kind(byte_ranges, read_jsonl),
    "parquet": _Kind(row_groups, read_parquet, in_columns=True),
    "hf": _Kind(record_batches, read_hf, in_columns=True),
    "mediawiki": _Kind(_dump_ranges, _read_dump),
    "bert": _Kind(byte_ranges, read_bert),
    "wikiextractor": _Kind(byte_ranges, _read_wikiextractor, small_files=True),
}
