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
    how: str, duplicates: Duplicates, tables: Sequence[Path], sources: Sequence[int], corpora: Sequence[str]
) -> DuplicateReport:
    """The report on what was found in tables.

    Args:
        sources: the number of the source that each table is of, a place in ``corpora``.
    """
    of_tables = np.array(sources, dtype=np.int64)
    by_source = np.bincount(of_tables[duplicates.table_of(duplicates.later)], minlength=len(corpora))
    prefixes = source_prefixes(sources, corpora)
    examples = zip(*(names_of(duplicates, tables, prefixes, numbers[:_EXAMPLES])
                     for numbers in (duplicates.later, duplicates.first)), strict=True)  # fmt: skip
    return DuplicateReport(how, len(duplicates.later), tuple(by_source.tolist()), tuple(examples))


def keys_of(duplicates: Duplicates, tables: Sequence[Path], numbers: Int64s) -> NDArray[np.uint64]:
    """The keys of documents, in the order of their numbers."""
    keys = np.zeros(len(numbers), dtype=np.uint64)
    for _, table, places, rows in _in_tables(duplicates, tables, numbers):
        keys[places] = table.keys[rows]
    return keys


def source_prefixes(sources: Sequence[int], corpora: Sequence[str]) -> list[str]:
    """What each table's documents are called by before their names, which are alike in several sources: their source,
    if there is more than one."""
    return [f"{corpora[source]}: " if len(corpora) > 1 else "" for source in sources]


def names_of(duplicates: Duplicates, tables: Sequence[Path], prefixes: Sequence[str], numbers: Int64s) -> list[str]:
    """The names of documents, in the order of their numbers, each behind its table's prefix."""
    names = [""] * len(numbers)
    for number, table, places, rows in _in_tables(duplicates, tables, numbers):
        for place, row in zip(places.tolist(), rows.tolist(), strict=True):
            names[place] = prefixes[number] + table.name(row)
    return names


def _in_tables(
    duplicates: Duplicates, tables: Sequence[Path], numbers: Int64s
) -> Iterator[tuple[int, DocumentTable, Int64s, Int64s]]:
    """The number of each table that holds some of the documents, the table, which of them, and their rows in it."""
    of_tables = duplicates.table_of(numbers)
    order = np.argsort(of_tables, kind="stable")
    present, starts = np.unique(of_tables[order], return_index=True)
    for table, places in zip(present.tolist(), np.split(order, starts)[1:], strict=True):
        yield table, DocumentTable.read(tables[table]), places, numbers[places] - duplicates.offsets[table]
