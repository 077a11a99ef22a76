"""Tables of examples: CSV, TSV, JSON lines and Parquet, row by row."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjobs.data.corpus.document import sound
from bertjobs.data.corpus.files import COMPRESSIONS, open_raw
from bertjobs.errors import InputError, first_line, nearest
from bertjobs.files.reading import parse_json
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading.lines import LONGEST, opened, place, text_lines

SUFFIXES: Mapping[str, str] = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet",
}  # fmt: skip
"""The kind of table that a file is, by the end of its name; ``.gz`` and the like may follow."""

RAGGED_SHARE = 0.001
"""Share of rows with a wrong number of fields up to which they are left out, where a reader allows that."""

Cell = str | tuple[str, ...] | None
"""Text, a list of texts (JSON lines and Parquet have those), or None: nothing is there."""

_ROWS = 256  # of Parquet, at a time

_RAGGED = {
    "csv": "is there a comma in a field that is not in double quotes, or is a field missing?",
    "tsv": "is there a tab or a line end within a field, or is one missing?",
}
_REMEDIES = {
    ("csv", ";"): "write it with commas between the fields, and fields that have commas in double quotes",
    ("csv", "\t"): "give it a name that ends with .tsv",
    ("tsv", ","): "give it a name that ends with .csv",
    ("tsv", ";"): "write it with tabs between the fields",
}
"""What to do with a table of a kind whose first line is separated by something else."""


class TableRow(NamedTuple):
    """A row: its file and line, that line's number (Parquet: the row's) from 1, the row's number from 0, and its cells
    by the name of the column."""

    where: str
    line: int
    number: int
    cells: Mapping[str, Cell]


def kind_of(path: Path) -> str:
    """``csv``, ``tsv``, ``jsonl`` or ``parquet``.

    Raises:
        InputError: the file's name does not say.
    """
    name = path.name.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    if (kind := SUFFIXES.get(Path(name).suffix)) is None:
        raise InputError(f"the name of {path.name} does not say what kind of table it is", where=str(path),
                         hint=f"known are: {', '.join(SUFFIXES)}")  # fmt: skip
    return kind


def read_rows(
    path: Path,
    required: Sequence[str],
    notes: Notes,
    *,
    optional: Sequence[str] = (),
    kind: str = "",
    header: Sequence[str] = (),
    leave_out_ragged: bool = False,
) -> Iterator[TableRow]:
    """The rows of a table with the cells of the columns that are asked for, in the file's order.

    CSV has fields in double quotes where needed; TSV, as GLUE's, has no quotes: a quote is a character like others.

    Args:
        required: names of columns that must be there.
        notes: here is counted what is left out or changed.
        optional: columns that may be there.
        kind: of the file; "": as its name says.
        header: the names of all columns of a CSV or TSV file whose first line is a row already.
        leave_out_ragged: rows with a wrong number of fields are counted in place of refused, up to `RAGGED_SHARE`.

    Raises:
        InputError: a column is missing (names the nearest) or there twice, a row is ragged or is not what its kind says
            (names file and line), or there are no rows.
    """
    kind = kind or kind_of(path)
    if kind == "parquet":
        rows = _parquet(path, required, optional)
    elif kind == "jsonl":
        rows = _json_lines(path, required, optional, notes)
    else:
        fields = _quoted_fields(path) if kind == "csv" else _plain_fields(path)
        rows = _by_header(path, fields, kind, required, optional, header, notes, leave_out_ragged)
    number = -1
    for number, (line, cells) in enumerate(rows):
        where = place(path, line, "row" if kind == "parquet" else "line")
        yield TableRow(where, line, number, {name: _sound(cell, where, notes) for name, cell in cells.items()})
    if number < 0:
        raise InputError(f"{path.name} has no rows", where=str(path))


def _plain_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text_lines(path), 1):
        yield number, line.split("\t") if line else []


def _quoted_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line at which a row of CSV begins, and its fields; one in quotes may hold line ends."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))  # Python's own limit is 131,072 characters
    reader = csv.reader(text_lines(path, keep_ends=True), strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"the row that begins here is not CSV: {_csv_words(error)}",
                where=place(path, begin),
                hint='a field with quotes, commas or line ends is written "like ""this"""; TSV files have no quotes',
            ) from None
        yield begin, fields


def _csv_words(error: csv.Error) -> str:
    words = first_line(error)
    if "unexpected end" in words:
        return "a quote is opened and never closed"
    return f"a field is longer than {LONGEST:,} characters: is a quote never closed?" if "limit" in words else words


def _by_header(
    path: Path,
    fields: Iterator[tuple[int, list[str]]],
    kind: str,
    required: Sequence[str],
    optional: Sequence[str],
    header: Sequence[str],
    notes: Notes,
    leave_out_ragged: bool,
) -> Iterator[tuple[int, Mapping[str, str]]]:
    names = list(header) or next(fields)[1]
    places = {name: names.index(name) for name in _chosen(names, required, optional, path, kind)}
    ragged, total, first_ragged = 0, 0, ""
    for line, row in fields:
        if not row:
            notes.add(f"blank lines in {path.name}", place(path, line))
            continue
        total += 1
        if len(row) == len(names):
            yield line, {name: row[column] for name, column in places.items()}
            continue
        error = InputError(
            f"the row has {_count(len(row))}, not {len(names)} as {'expected' if header else 'the header'}",
            where=place(path, line),
            hint=_RAGGED[kind],
        )
        if not leave_out_ragged:
            raise error
        ragged, first_ragged = ragged + 1, first_ragged or place(path, line)
        notes.add(f"rows of {path.name} with a wrong number of fields were left out", place(path, line))
    if ragged > RAGGED_SHARE * total:
        raise InputError(
            f"{ragged:,} of {total:,} rows of {path.name} do not have {len(names)} fields",
            where=first_ragged,
            hint=f"up to {RAGGED_SHARE:.1%} of the rows would be left out; is the file damaged?",
        )


def _count(fields: int) -> str:
    return f"{fields} field{'s' * (fields != 1)}"


def _chosen(
    names: Sequence[str], required: Sequence[str], optional: Sequence[str], path: Path, kind: str = ""
) -> list[str]:
    """The columns to read, of those there are; raises InputError if one is missing or there twice."""
    for name in required:
        if name not in names:
            raise _missing(name, names, str(path), path.name, kind)
    chosen = [name for name in dict.fromkeys((*required, *optional)) if name in names]
    for name in chosen:
        if names.count(name) > 1:
            raise InputError(f"{path.name} has {names.count(name)} columns {name!r}", where=str(path),
                             hint="rename all but one of them")  # fmt: skip
    return chosen


def _missing(name: str, names: Sequence[str], where: str, owner: str, kind: str = "") -> InputError:
    """``kind``: of a table whose first line is to name its columns; "" for others."""
    shown = [each[:40] for each in names[:20]]
    same = next((each for each in shown if each.lower() == name.lower()), None)
    near = f"did you mean {same!r}?" if same else nearest(name, shown)
    if kind and not (near or "").startswith("did you mean"):
        near = f"does its first line name the columns?{f' if so, {near}' if near else ''}"
    return InputError(
        f"{owner} has no column {name!r}; it has: {', '.join(map(repr, shown)) or 'none'}",
        where=where,
        hint=_otherwise_separated(names, kind) or near,
    )


def _otherwise_separated(names: Sequence[str], kind: str) -> str | None:
    """What to do if a first line of a single field looks like several; None if it does not."""
    for (of_kind, mark), remedy in _REMEDIES.items():
        if of_kind == kind and len(names) == 1 and mark in names[0]:
            return f"it looks separated by {'tabs' if mark == chr(9) else repr(mark)}: {remedy}"
    return None


def _json_lines(
    path: Path, required: Sequence[str], optional: Sequence[str], notes: Notes
) -> Iterator[tuple[int, Mapping[str, Cell]]]:
    for number, line in enumerate(text_lines(path), 1):
        where = place(path, number)
        if not line.strip():
            notes.add(f"blank lines in {path.name}", where)
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            raise InputError(f"the line is not JSON: {first_line(error)}", where=where,
                             hint="JSON lines: one object per line") from None  # fmt: skip
        if not isinstance(value, dict):
            raise InputError(f"the line is not a JSON object but {_kind(value)}", where=where,
                             hint="JSON lines: one object per line")  # fmt: skip
        for name in required:
            if name not in value:
                raise _missing(name, list(value), where, "the line")
        yield number, {name: _cell(value[name], name, where) for name in (*required, *optional) if name in value}


def _parquet(path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Cell]]]:
    import pyarrow.parquet as pq  # here: who only predicts needs no pyarrow

    row = 0
    with opened(path), open_raw(str(path)) as raw, pq.ParquetFile(raw, page_checksum_verification=True) as table:
        columns = _chosen(table.schema_arrow.names, required, optional, path)
        for batch in table.iter_batches(_ROWS, columns=columns, use_threads=False):
            cells = [_values(batch.column(name), name, path) for name in columns]
            for values in zip(*cells, strict=True):
                row += 1
                where = place(path, row, "row")
                yield row, {name: _cell(value, name, where) for name, value in zip(columns, values, strict=True)}


def _values(column: Any, name: str, path: Path) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        raise InputError(f"column {name!r} of {path.name} holds text that is not UTF-8", where=str(path)) from None


def _cell(value: Any, name: str, where: str) -> Cell:
    """What a value of JSON or Parquet is as text; numbers and truth values as JSON writes them."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if math.isfinite(value) and value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, list) and all(isinstance(each, str | int) for each in value):
        return tuple(str(_cell(each, name, where)) for each in value)
    raise InputError(f"column {name!r} holds {_kind(value)}", where=where,
                     hint="text, numbers, true and false, and lists of texts are read")  # fmt: skip


def _kind(value: Any) -> str:
    words = {list: "a list", dict: "an object", str: "a text", bytes: "bytes", int: "a number", float: "a number"}
    return words.get(type(value), "null" if value is None else f"a {type(value).__name__}")


def _sound(cell: Cell, where: str, notes: Notes) -> Cell:
    """A cell without NUL and without halves of characters, which JSON's escapes and Parquet can hold."""
    if isinstance(cell, tuple):
        return tuple(str(_sound(each, where, notes)) for each in cell)
    if cell is None or (cell.isascii() and "\0" not in cell):
        return cell
    clean = sound(cell)
    if clean.text != cell:
        notes.add("texts from which NUL was removed, or in which half a character was replaced", where)
    return clean.text
