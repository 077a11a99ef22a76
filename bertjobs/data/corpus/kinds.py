"""The table of kinds: how each is found, cut into pieces and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bertjobs.data.corpus.bert_lines import read_bert
from bertjobs.data.corpus.columns import find_hf, read_hf, read_parquet, record_batches, row_groups
from bertjobs.data.corpus.files import File, find
from bertjobs.data.corpus.json_lines import read_jsonl
from bertjobs.data.corpus.lines import byte_ranges, read_lddl
from bertjobs.data.corpus.mediawiki import dump_ranges, read_dump
from bertjobs.data.corpus.plain import groups, read_text, uncut
from bertjobs.data.corpus.source import Document, Piece, Source
from bertjobs.data.corpus.wikiextractor import read_wikiextractor
from bertjobs.errors import InputError


def pieces(index: int, source: Source, piece_bytes: int) -> Iterator[Piece]:
    """The pieces of one source, in the order of its files. Raises InputError as ``scan`` does."""
    kind = _KINDS[source.kind]
    root, files = find_hf(source) if source.kind == "hf" else find(source)
    files = [file for file in files if file.size]
    if not files:
        raise InputError(f"corpus {str(source)!r} holds no text", where="--corpus")
    for group in groups(files, piece_bytes) if kind.small_files else ([file] for file in files):
        if len(group) > 1:
            paths = tuple(file.path for file in group)
            yield Piece(index, paths, 0, -1, sum(file.text_bytes for file in group), root, source.field)
            continue
        for start, end, size in kind.cut(group[0], piece_bytes, source.field):
            yield Piece(index, (group[0].path,), start, end, size, root, source.field)


def reader(kind: str) -> Callable[[Piece], Iterator[Document]]:
    """What reads a piece of this kind."""
    return _KINDS[kind].read


class _Kind(NamedTuple):
    """Where a file of a kind may be cut, a piece's documents, and whether small files are read together."""

    cut: Callable[[File, int, str], Iterator[tuple[int, int, int]]]
    read: Callable[[Piece], Iterator[Document]]
    small_files: bool = False


_KINDS = {
    "text": _Kind(uncut, read_text, small_files=True),
    "lddl": _Kind(byte_ranges, read_lddl),
    "jsonl": _Kind(byte_ranges, read_jsonl),
    "parquet": _Kind(row_groups, read_parquet),
    "hf": _Kind(record_batches, read_hf),
    "mediawiki": _Kind(dump_ranges, read_dump),
    "bert": _Kind(byte_ranges, read_bert),
    "wikiextractor": _Kind(byte_ranges, read_wikiextractor, small_files=True),
}
