"""What was found of duplicates, with the names of documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.check.document_table import DocumentTable
from bertjobs.data.check.duplicates import Duplicates
from bertjobs.data.shards.duplicate_report import DuplicateReport

Int64s = NDArray[np.int64]

_EXAMPLES = 5


def report_on(
    how: str, duplicates: Duplicates, tables: Sequence[Path], sources: Sequence[int], count: int
) -> DuplicateReport:
    """The report on what was found in tables.

    Args:
        sources: the number of the source that each table is of, below ``count``.
    """
    of_tables = np.array(sources, dtype=np.int64)
    by_source = np.bincount(of_tables[duplicates.table_of(duplicates.later)], minlength=count)
    examples = zip(*(names_of(duplicates, tables, numbers[:_EXAMPLES])
                     for numbers in (duplicates.later, duplicates.first)), strict=True)  # fmt: skip
    return DuplicateReport(how, len(duplicates.later), tuple(by_source.tolist()), tuple(examples))


def keys_of(duplicates: Duplicates, tables: Sequence[Path], numbers: Int64s) -> NDArray[np.uint64]:
    """The keys of documents, in the order of their numbers."""
    keys = np.zeros(len(numbers), dtype=np.uint64)
    for table, places, rows in _in_tables(duplicates, tables, numbers):
        keys[places] = table.keys[rows]
    return keys


def names_of(duplicates: Duplicates, tables: Sequence[Path], numbers: Int64s) -> list[str]:
    """The names of documents, in the order of their numbers."""
    names = [""] * len(numbers)
    for table, places, rows in _in_tables(duplicates, tables, numbers):
        for place, row in zip(places.tolist(), rows.tolist(), strict=True):
            names[place] = table.name(row)
    return names


def _in_tables(
    duplicates: Duplicates, tables: Sequence[Path], numbers: Int64s
) -> Iterator[tuple[DocumentTable, Int64s, Int64s]]:
    """Each table that holds some of the documents, which of them, and their rows in it."""
    of_tables = duplicates.table_of(numbers)
    order = np.argsort(of_tables, kind="stable")
    present, starts = np.unique(of_tables[order], return_index=True)
    for table, places in zip(present.tolist(), np.split(order, starts)[1:], strict=True):
        yield DocumentTable.read(tables[table]), places, numbers[places] - duplicates.offsets[table]
