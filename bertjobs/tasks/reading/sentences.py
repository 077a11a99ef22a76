"""Sentences and pairs from the rows of a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertjobs.errors import InputError, nearest
from bertjobs.tasks.example import Sentences
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading.ids import Ids
from bertjobs.tasks.reading.tables import Cell, TableRow, read_rows


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what.

    Attributes:
        text: of the sentence; several are joined by a blank.
        second: of the second sentence; "" for single sentences.
        label: of the label; "" where there is none.
        id: of the id; several are joined by a blank. () takes the number of the line in which a row begins.
        separator: between labels of which several can be true at once; "" where each example has one.
        number: the label is a number to be predicted.
        names: of labels, by how they are written in the file; empty takes labels as they are.
        only: column and text that rows must have there; others are passed over. Empty takes all rows.
        row_ids: without ``id``, the id is the row's number from 0, as in GLUE, in place of its line.
        second_optional: rows may be single sentences, and the file may lack the column.
    """

    text: tuple[str, ...] = ("text",)
    second: str = ""
    label: str = "label"
    id: tuple[str, ...] = ()
    separator: str = ""
    number: bool = False
    names: Mapping[str, str] | None = None
    only: tuple[str, str] | None = None
    row_ids: bool = False
    second_optional: bool = False


def read_sentences(
    path: Path,
    columns: Columns,
    notes: Notes,
    *,
    labelled: bool = True,
    kind: str = "",
    header: Sequence[str] = (),
    leave_out_ragged: bool = False,
) -> Iterator[Sentences]:
    """The examples of a table.

    Args:
        labelled: each row must have a label. Else the label is read where there is one, as in a test set.
        kind, header, leave_out_ragged: as in `read_rows`.

    Raises:
        InputError: as `read_rows`; a row has no text or no label, a label that is not a number or not one of those that
            are known (names the nearest), or an id that occurred before.
    """
    second = "" if columns.second_optional else columns.second
    required = [*columns.text, second, *columns.id, columns.only[0] if columns.only else ""]
    label = [columns.label] if columns.label else []
    rows = read_rows(
        path,
        [name for name in [*required, *(label if labelled else ())] if name],
        notes,
        optional=[*label, *([columns.second] if columns.second_optional else [])],
        kind=kind,
        header=header,
        leave_out_ragged=leave_out_ragged,
    )
    # Where rows are numbered without ids, the columns are those of a published file, and no option names them.
    ids = Ids("" if columns.row_ids else "name no column of ids: leave out --option id")
    passed_over = taken = 0
    for row in rows:
        if columns.only and row.cells[columns.only[0]] != columns.only[1]:
            passed_over += 1
            continue
        taken += 1
        example = Sentences(
            id=_id(row, columns),
            text=" ".join(_text(row, name, notes) for name in columns.text),
            second=_second(row, columns, notes),
            label=_label(row, columns, labelled),
            where=row.where,
        )
        if columns.id:
            ids.add(example.id, row.where)
        yield example
    ids.check()
    if passed_over and not taken and columns.only:
        name, wanted = columns.only
        raise InputError(f"no row of {path.name} has {wanted!r} in column {name!r}", where=str(path))


def _id(row: TableRow, columns: Columns) -> str:
    if not columns.id:
        return str(row.number if columns.row_ids else row.line)
    parts = []
    for name in columns.id:
        if not isinstance(cell := row.cells[name], str) or not cell:
            raise InputError(f"the row has no id in column {name!r}", where=row.where)
        parts.append(cell)
    return " ".join(parts)


def _text(row: TableRow, name: str, notes: Notes) -> str:
    cell = row.cells[name]
    if cell is None:
        raise InputError(f"the row has no text in column {name!r}", where=row.where)
    if isinstance(cell, tuple):
        raise InputError(f"column {name!r} holds a list, not text", where=row.where)
    if not cell.strip():
        notes.add(f"empty texts in column {name!r}", row.where)
    return cell


def _second(row: TableRow, columns: Columns, notes: Notes) -> str | None:
    if not columns.second or (columns.second_optional and not row.cells.get(columns.second)):
        return None
    return _text(row, columns.second, notes)


def _label(row: TableRow, columns: Columns, labelled: bool) -> str | float | tuple[str, ...] | None:
    cell = row.cells.get(columns.label)
    if columns.separator:
        return _labels(cell, row, columns, labelled)
    if isinstance(cell, tuple):
        raise InputError(f"the label in column {columns.label!r} is a list", where=row.where,
                         hint="if several labels can be true at once: --option kind=several; else give each row one "
                         "label, as text")  # fmt: skip
    if cell is None or not cell.strip():
        if labelled and columns.label:
            raise InputError(f"the row has no label in column {columns.label!r}", where=row.where)
        return None
    return _number(cell, row, columns) if columns.number else _name(cell.strip(), row, columns)


def _labels(cell: Cell, row: TableRow, columns: Columns, labelled: bool) -> tuple[str, ...] | None:
    """All of a row's labels, each once: () where none is true, None where the file has none."""
    if cell is None:
        if labelled:
            raise InputError(f"the row has no labels in column {columns.label!r}", where=row.where,
                             hint="an empty text says that no label is true")  # fmt: skip
        return None
    parts = [part.strip() for part in (cell if isinstance(cell, tuple) else cell.split(columns.separator))]
    return tuple(_name(part, row, columns) for part in dict.fromkeys(parts) if part)


def _name(cell: str, row: TableRow, columns: Columns) -> str:
    if columns.names is None:
        return cell
    if cell not in columns.names:
        known = ", ".join(columns.names)
        raise InputError(f"the label {cell!r} in column {columns.label!r} is not one of {known}", where=row.where,
                         hint=nearest(cell, columns.names))  # fmt: skip
    return columns.names[cell]


def _number(cell: str, row: TableRow, columns: Columns) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"the label {cell!r} in column {columns.label!r} is not a number", where=row.where)
    return number
