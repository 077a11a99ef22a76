"""How many documents repeat an earlier one: by source, with examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.check.document_table import DocumentTable
from bertjobs.data.check.duplicates import Duplicates

Int64s = NDArray[np.int64]

_EXAMPLES = 5


@dataclass(frozen=True)
class DuplicateReport:
    """Documents that repeat an earlier one.

    Attributes:
        how: "exact" or "near".
        documents, by_source: how many there are, in all and of each source.
        examples: the names of some of them, each with that of the document it repeats.
        dropped: whether they are left out.
        across_splits: how many are in another split than the document that they repeat.
    """

    how: str
    documents: int
    by_source: tuple[int, ...]
    examples: tuple[tuple[str, str], ...]
    dropped: bool = False
    across_splits: int = 0

    @classmethod
    def of(
        cls, how: str, duplicates: Duplicates, tables: Sequence[Path], sources: Sequence[int], count: int
    ) -> DuplicateReport:
        """The report on what was found in tables.

        Args:
            sources: the number of the source that each table is of, below ``count``.
        """
        of_tables = np.array(sources, dtype=np.int64)
        by_source = np.bincount(of_tables[duplicates.table_of(duplicates.later)], minlength=count)
        examples = zip(*(names_of(duplicates, tables, numbers[:_EXAMPLES])
                         for numbers in (duplicates.later, duplicates.first)), strict=True)  # fmt: skip
        return cls(how, len(duplicates.later), tuple(by_source.tolist()), tuple(examples))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DuplicateReport:
        """The report that ``as_json`` wrote."""
        examples = tuple((later, first) for later, first in values["examples"])
        return cls(**{**values, "by_source": tuple(values["by_source"]), "examples": examples})

    def as_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


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
