"""The table of kinds: how each is found, cut into pieces and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bertjobs.data.corpus.columns import find_hf, read_hf, read_parquet, record_batches, row_groups
from bertjobs.data.corpus.files import File, find
from bertjobs.data.corpus.json_lines import read_jsonl
from bertjobs.data.corpus.lines import byte_ranges, read_lddl
from bertjobs.data.corpus.mediawiki import dump_ranges, read_dump
from bertjobs.data.corpus.plain import groups, read_text
from bertjobs.data.corpus.source import Document, Piece, Source
from bertjobs.errors import InputError


def pieces(index: int, source: Source, piece_bytes: int) -> Iterator[Piece]:
    """The pieces of one source, in the order of its files. Raises InputError as ``scan`` does."""
    kind = _KINDS[source.kind]
    root, files = find_hf(source) if source.kind == "hf" else find(source, kind.suffixes)
    files = [file for file in files if file.size]
    if not files:
        raise InputError(f"corpus {str(source)!r} holds no text", where="--corpus")
    if source.kind == "text":
        for group in groups(files, piece_bytes):
            paths, size = tuple(file.path for file in group), sum(file.text_bytes for file in group)
            yield Piece(index, paths, 0, -1, size, root)
        return
    for file in files:
        for start, end, size in kind.cut(file, piece_bytes, source.field):
            yield Piece(index, (file.path,), start, end, size, root, source.field)


def reader(kind: str) -> Callable[..., Iterator[Document]]:
    """What reads a piece of this kind."""
    return _KINDS[kind].read


class _Kind(NamedTuple):
    """The names of a kind's files, where a file may be cut, and a piece's documents."""

    suffixes: tuple[str, ...]
    cut: Callable[[File, int, str], Iterator[tuple[int, int, int]]]
    read: Callable[..., Iterator[Document]]


_KINDS = {
    "text": _Kind((".txt",), byte_ranges, read_text),
    "lddl": _Kind((".txt",), byte_ranges, read_lddl),
    "jsonl": _Kind((".jsonl", ".ndjson", ".json"), byte_ranges, read_jsonl),
    "parquet": _Kind((".parquet",), row_groups, read_parquet),
    "hf": _Kind((".arrow",), record_batches, read_hf),
    "mediawiki": _Kind((".xml",), dump_ranges, read_dump),
}
