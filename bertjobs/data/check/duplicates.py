"""Documents that repeat an earlier one, word for word or nearly, over any number of tables.

Which are found depends on the corpus alone, not on the processes that read it: of equal documents the first in the
corpus's order stays. Equal ones are found a share of the hashes at a time. Near ones are found by locality-sensitive
hashing: signatures are cut into bands, documents that agree in a whole band are compared, and those whose signatures
agree at the threshold's share of places or more belong together, as do all that are joined by a chain of such pairs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.batches.masking import splitmix64
from bertjobs.data.check.document_table import DocumentTable
from bertjobs.data.check.fingerprints import PLACES
from bertjobs.data.ragged import offsets_of
from bertjobs.errors import InputError
from bertjobs.files.arrays import map_new

Bools = NDArray[np.bool_]
Int64s = NDArray[np.int64]
UInt32s = NDArray[np.uint32]
UInt64s = NDArray[np.uint64]

HASHES_AT_A_TIME = 1 << 20  # looked through together, some 70 MB
CAUGHT = 0.99  # chance that a pair exactly at the threshold is compared
_PAIRS = 1 << 14  # signatures compared together
_ROUNDS = 32  # in which the documents of a band that are alike are told apart, at most


@dataclass(frozen=True)
class Duplicates:
    """Documents that repeat an earlier one; documents are numbered through all tables.

    Attributes:
        later: their numbers, ascending.
        first: the earlier document that each repeats.
        offsets: the number of each table's first document, ``[tables + 1]``.
    """

    later: Int64s
    first: Int64s
    offsets: Int64s

    def table_of(self, numbers: Int64s) -> Int64s:
        """The table that each document is in."""
        return np.searchsorted(self.offsets, numbers, side="right") - 1

    def rows(self, table: int) -> Int64s:
        """The rows of a table that repeat an earlier document, ascending."""
        begin, end = np.searchsorted(self.later, self.offsets[table : table + 2])
        return self.later[begin:end] - self.offsets[table]


def equal_documents(tables: Sequence[Path], folder: Path) -> Duplicates:
    """Documents with the hash of an earlier one.

    Args:
        folder: for a temporary file of 16 bytes per document.

    Raises:
        OSError: it cannot be written.
    """
    offsets = _offsets(tables)
    count = int(offsets[-1])
    passes = max(1, ceil(count / HASHES_AT_A_TIME))
    with tempfile.TemporaryFile(dir=folder) as file:
        hashes = map_new(file, np.uint64, (count, 2))
        for path, start, end in zip(tables, offsets, offsets[1:], strict=False):
            hashes[start:end] = DocumentTable.read(path).hashes
        shares = [_equal_in_share(hashes, number, passes) for number in range(passes)]
    later, first = (np.concatenate(parts) for parts in zip(*shares, strict=True))
    order = np.argsort(later)
    return Duplicates(later[order], first[order], offsets)


def near_documents(tables: Sequence[Path], threshold: float, folder: Path) -> Duplicates:
    """Documents with the hash of an earlier one, or a signature that agrees at ``threshold`` of its places or more.

    Args:
        folder: for temporary files of about 700 bytes per document, which are mapped; besides, fewer than 80 bytes
            per document are held in memory.

    Raises:
        OSError: they cannot be written.
    """
    equal = equal_documents(tables, folder)
    count = int(equal.offsets[-1])
    labels = np.arange(count)  # the first document that each belongs to
    join(labels, equal.later, equal.first)
    width = band_width(threshold)
    with tempfile.TemporaryFile(dir=folder) as rows_file, tempfile.TemporaryFile(dir=folder) as bands_file:
        rows = map_new(rows_file, np.uint32, (count, PLACES))
        bands = map_new(bands_file, np.uint64, (PLACES // width, count))
        usable = np.zeros(count, dtype=np.bool_)
        for path, start, end in zip(tables, equal.offsets, equal.offsets[1:], strict=False):
            table = DocumentTable.read(path)
            rows[start:end], usable[start:end] = table.signatures, table.runs > 0
            bands[:, start:end] = _bands(table.signatures, width)
        usable[equal.later] = False
        numbers = np.flatnonzero(usable)
        for band in bands:
            _join_band(rows, band[numbers], numbers, threshold, labels)
    later = np.flatnonzero(labels < np.arange(count))
    return Duplicates(later, labels[later], equal.offsets)


def check_near(threshold: float, words: int) -> None:
    """InputError unless near duplicates can be found with this threshold, over runs of so many words."""
    if not 0 < threshold <= 1:
        raise InputError(f"{threshold} is not a share above 0, up to 1", where="--near-threshold")
    if words < 1:
        raise InputError(f"{words} is too small: at least 1", where="--shingle-words")


def band_width(threshold: float) -> int:
    """Places per band: the most with which a pair at the threshold agrees in some band with the chance ``CAUGHT``."""
    widths = range(1, PLACES + 1)
    return max((width for width in widths if 1 - (1 - threshold**width) ** (PLACES // width) >= CAUGHT), default=1)


def join(labels: Int64s, a: Int64s, b: Int64s) -> None:
    """Note that the documents ``a`` and ``b`` belong together, pair by pair: in ``labels`` each document has the least
    number of those that it belongs with."""
    while True:
        low, high = np.minimum(labels[a], labels[b]), np.maximum(labels[a], labels[b])
        apart = low != high
        if not apart.any():
            return
        np.minimum.at(labels, high[apart], low[apart])
        while not np.array_equal(further := labels[labels], labels):
            labels[:] = further


def _offsets(tables: Sequence[Path]) -> Int64s:
    return offsets_of(np.array([len(DocumentTable.read(path)) for path in tables], dtype=np.int64))


def _equal_in_share(hashes: UInt64s, number: int, of: int) -> tuple[Int64s, Int64s]:
    """Later documents and their first ones, among the hashes that are ``number`` modulo ``of``."""
    blocks = range(0, len(hashes), HASHES_AT_A_TIME)
    chosen = [start + np.flatnonzero(hashes[start : start + HASHES_AT_A_TIME, 0] % np.uint64(of) == number)
              for start in blocks]  # fmt: skip
    documents = np.concatenate([np.zeros(0, dtype=np.int64), *chosen])
    low, high = hashes[documents].T
    order = np.lexsort((high, low))  # stable: equal ones stay in the corpus's order
    documents, low, high = documents[order], low[order], high[order]
    repeats = np.zeros(len(documents), dtype=np.bool_)
    repeats[1:] = (low[1:] == low[:-1]) & (high[1:] == high[:-1])
    firsts = np.maximum.accumulate(np.where(repeats, 0, np.arange(len(documents))))
    return documents[repeats], documents[firsts[repeats]]


def _bands(rows: UInt32s, width: int) -> UInt64s:
    """A hash of each band: ``[bands, documents]``."""
    hashes = np.zeros((PLACES // width, len(rows)), dtype=np.uint64)
    for band, columns in enumerate(hashes):
        for place in range(band * width, (band + 1) * width):
            columns[:] = splitmix64(columns ^ rows[:, place])
    return hashes


def _join_band(rows: UInt32s, hashes: UInt64s, numbers: Int64s, threshold: float, labels: Int64s) -> None:
    """Join the documents that agree in a band and are alike: the first of each group with all that are like it, then
    the first of what is left of the group, and so on."""
    order = np.argsort(hashes, kind="stable")
    documents, groups = numbers[order], np.cumsum(np.diff(hashes[order], prepend=hashes[order[:1]]) != 0)
    for _ in range(_ROUNDS):
        several = np.bincount(groups)[groups] > 1
        documents, groups = documents[several], groups[several]
        if not len(documents):
            return
        is_first = np.diff(groups, prepend=-1) != 0
        firsts = documents[np.maximum.accumulate(np.where(is_first, np.arange(len(documents)), 0))]
        a, b = firsts[~is_first], documents[~is_first]
        together = labels[a] == labels[b]
        unknown = np.flatnonzero(~together)
        together[unknown] = _agreement(rows, a[unknown], b[unknown]) >= threshold
        join(labels, a[together], b[together])
        documents, groups = b[~together], groups[~is_first][~together]


def _agreement(rows: UInt32s, a: Int64s, b: Int64s) -> NDArray[np.float64]:
    """The share of places at which two signatures agree, pair by pair."""
    shares = np.zeros(len(a))
    for start in range(0, len(a), _PAIRS):
        part = slice(start, start + _PAIRS)
        shares[part] = (rows[a[part]] == rows[b[part]]).mean(axis=1)
    return shares
