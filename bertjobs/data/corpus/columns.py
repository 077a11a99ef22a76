"""Corpora in columns: Parquet files, and the Arrow files of Hugging Face ``datasets``; one document per row.

``datasets`` itself is not needed: a folder of ``save_to_disk`` names its Arrow stream files in ``state.json``, and the
folders of its splits in ``dataset_dict.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from bertjobs.data.corpus.document import CHUNK, decode, parts
from bertjobs.data.corpus.files import File, exists, file_at, is_http, is_url, open_raw, reading
from bertjobs.data.corpus.source import Document, Piece, Source
from bertjobs.errors import InputError, nearest

_ROWS = 64  # a batch's rows: few, for a row may hold a book


def row_groups(file: File, piece_bytes: int, field: str) -> Iterator[tuple[int, int, int]]:
    """``(start, end, bytes of text)`` of runs of row groups that hold about ``piece_bytes`` of text."""
    with reading(file.path), _parquet(file.path) as table:
        column = _column(table.schema_arrow, field, file.path)
        metadata = table.metadata
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        leaf = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == column)
        yield from _runs([group.column(leaf).total_uncompressed_size for group in groups], piece_bytes)


def record_batches(file: File, piece_bytes: int, field: str) -> Iterator[tuple[int, int, int]]:
    """``(start, end, bytes of text)`` of runs of record batches; a URL's file is one run: it is read only once."""
    if is_url(file.path):
        yield 0, -1, file.size
        return
    with reading(file.path), _stream(file.path) as stream:
        _column(stream.schema, field, file.path)
        yield from _runs([batch.column(field).nbytes for batch in stream], piece_bytes)


def _runs(sizes: Sequence[int], piece_bytes: int) -> Iterator[tuple[int, int, int]]:
    start = held = 0
    for place, size in enumerate(sizes):
        if held and held + size > piece_bytes:
            yield start, place, held
            start, held = place, 0
        held += size
    if start < len(sizes):
        yield start, len(sizes), held


def read_parquet(piece: Piece) -> Iterator[Document]:
    """The texts of a piece's row groups, "" where one is null."""
    (path,) = piece.paths
    with reading(path), _parquet(path) as table:
        _column(table.schema_arrow, piece.field, path)
        row = sum(table.metadata.row_group(group).num_rows for group in range(piece.start))
        batches = table.iter_batches(
            _ROWS, row_groups=range(piece.start, piece.end), columns=[piece.field], use_threads=False
        )
        for batch in batches:
            yield from _rows(batch.column(0), path.removeprefix(piece.root), row)
            row += batch.num_rows


def read_hf(piece: Piece) -> Iterator[Document]:
    """The texts of a piece's record batches, "" where one is null."""
    (path,) = piece.paths
    row = 0
    with reading(path), _stream(path) as stream:
        _column(stream.schema, piece.field, path)
        for place, batch in enumerate(stream):
            if 0 <= piece.end <= place:
                return
            if place >= piece.start:
                yield from _rows(batch.column(piece.field), path.removeprefix(piece.root), row)
            row += batch.num_rows


def _rows(column: Any, name: str, row: int) -> Iterator[Document]:
    """The documents of a column of text whose first row is number ``row`` of its file."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    for place, scalar in enumerate(column.cast(pa.large_binary()), row):
        yield from parts(f"{name}:{place}", decode(_slices(scalar.as_buffer()) if scalar.is_valid else ()))


def _slices(buffer: Any) -> Iterator[bytes]:
    for start in range(0, len(buffer), CHUNK):
        yield buffer[start : start + CHUNK].to_pybytes()


@contextmanager
def _parquet(path: str) -> Iterator[Any]:
    import pyarrow.parquet as pq  # here: it takes as long as reading ten megabytes of plain text

    with (
        open_raw(path) as raw,
        pq.ParquetFile(raw, pre_buffer=False, buffer_size=CHUNK, page_checksum_verification=True) as table,
    ):
        yield table


@contextmanager
def _stream(path: str) -> Iterator[Any]:
    with open_raw(path) if is_url(path) else pa.memory_map(path) as raw, pa.ipc.open_stream(raw) as stream:
        yield stream


def _column(schema: Any, field: str, path: str) -> str:
    """``field``, if it is a column of text of the schema."""
    if field not in schema.names:
        raise InputError(
            f"{path!r} has no column {field!r}; it has: {', '.join(schema.names)}",
            where="--corpus",
            hint=f"name the column with #field=NAME after the path; {nearest(field, schema.names)}",
        )
    if (times := schema.names.count(field)) > 1:
        raise InputError(
            f"{path!r} has {times} columns named {field!r}: it is not clear which one holds the text",
            where="--corpus",
            hint="rename the others, or name another column with #field=NAME after the path",
        )
    data_type = schema.field(field).type
    kind = data_type.value_type if pa.types.is_dictionary(data_type) else data_type
    if not any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        raise InputError(f"column {field!r} of {path!r} holds {data_type}, not text", where="--corpus")
    return field


def find_hf(source: Source) -> tuple[str, list[File]]:
    """The root and the Arrow files of a folder of ``save_to_disk``, in the order its state names them.

    Raises:
        InputError: it is not such a folder, a file of it is missing, or it has no such split.
    """
    root = source.path.removeprefix("file://").rstrip("/") + "/"
    with reading(root):
        if not is_http(root) and not exists(root):
            raise FileNotFoundError
        splits = _json(root + "dataset_dict.json")
        if splits is None:
            _check_only_split(root, source)
            return root, list(_arrow_files(root, source))
        names = [str(name) for name in splits["splits"]]
        if source.split and source.split not in names:
            raise InputError(
                f"corpus {str(source)!r} has no split {source.split!r}",
                where="--corpus",
                hint=nearest(source.split, names),
            )
        chosen = [source.split] if source.split else names
        return root, [file for name in chosen for file in _arrow_files(f"{root}{name}/", source)]


def _check_only_split(root: str, source: Source) -> None:
    """InputError if a folder of one split is asked for another."""
    state = _json(root + "state.json")
    name = state and state.get("_split")
    if state and source.split and source.split != name:
        named = f"the split {name!r}" if name else "one split, without a name"
        raise InputError(
            f"corpus {str(source)!r} is {named}",
            where="--corpus",
            hint=f"leave out #split={source.split}, or name the folder that has dataset_dict.json",
        )


def _arrow_files(folder: str, source: Source) -> Iterator[File]:
    state = _json(folder + "state.json")
    if state is None:
        raise InputError(
            f"{folder!r} was not written by save_to_disk: it has no state.json",
            where=f"--corpus {source}",
            hint="Parquet files are read with parquet:PATH",
        )
    for entry in state["_data_files"]:
        path = folder + entry["filename"]
        with reading(path):
            yield file_at(path)


def _json(path: str) -> Any:
    """What a JSON file holds, or None if it does not exist."""
    if not exists(path):
        return None
    try:
        with open_raw(path) as file:
            content = json.load(file)
        content["splits" if path.endswith("dataset_dict.json") else "_data_files"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path!r} is not what save_to_disk writes: {error}", where="--corpus") from error
    return content
