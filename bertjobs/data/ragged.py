"""Rows of different lengths kept in one flat array, and items of different sizes taken together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Ints = NDArray[Any]  # an array of any integer type

_BLOCK = 64  # rows for which `Starts` keeps one number
_LONG = 1000  # items of a slice, on average, from which slices are copied one by one: much faster


def offsets_of(lengths: Ints) -> NDArray[np.int64]:
    """Where each row starts, and at the end where the last one stops: ``[rows + 1]``."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


class Starts:
    """Where rows start in one flat array, as `offsets_of` says it, in a 64th of the memory: one number is kept for 64
    rows, and their lengths, which may lie in a mapped file, are read again."""

    def __init__(self, lengths: Ints) -> None:
        self._lengths = lengths
        firsts = np.arange(0, len(lengths), _BLOCK)
        self._blocks = offsets_of(np.add.reduceat(lengths, firsts, dtype=np.int64) if len(lengths) else lengths)

    def __call__(self, rows: Ints) -> NDArray[np.int64]:
        """The starts of some rows: ``[rows]``."""
        blocks, before = np.divmod(np.asarray(rows, dtype=np.int64), _BLOCK)
        sums = offsets_of(gather(self._lengths, blocks * _BLOCK, before))
        ends = offsets_of(before)
        return self._blocks[blocks] + sums[ends[1:]] - sums[ends[:-1]]


def gather(flat: Ints, starts: Ints, lengths: Ints) -> Ints:
    """The slices ``flat[start : start + length]``, one after the other; IndexError if one reaches beyond the array."""
    offsets = offsets_of(lengths)
    if offsets[-1] > _LONG * len(lengths):
        bounds = zip(starts.tolist(), lengths.tolist(), strict=True)
        joined = np.concatenate([flat[start : start + length] for start, length in bounds])
        if len(joined) < offsets[-1]:
            raise IndexError(f"a slice reaches beyond the array of {len(flat)}")
        return joined
    return flat.take(places_of(starts, lengths))


def places_of(starts: Ints, lengths: Ints) -> NDArray[np.int64]:
    """The numbers of the places ``start`` to ``start + length - 1`` of each slice, one slice after the other."""
    offsets = offsets_of(lengths)
    places = np.repeat(np.asarray(starts, dtype=np.int64) - offsets[:-1], lengths)
    places += np.arange(offsets[-1])
    return places


def in_batches(items: Iterable[T], size_of: Callable[[T], int], at_least: int) -> Iterator[list[T]]:
    """The items in order, in lists that end as soon as their sizes add up to ``at_least``; the last is what is left."""
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if size >= at_least:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
