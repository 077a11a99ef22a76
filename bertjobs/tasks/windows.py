"""Sentences that are longer than the model reads, as overlapping windows of whole words."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple


class Window(NamedTuple):
    """Words of a sentence: those that the model sees, and those among them whose outputs are read."""

    seen: range
    read: range


def overlap_of(room: int) -> int:
    """Tokens that neighbouring windows of ``room`` tokens share."""
    return room // 3


def windows_of(counts: Sequence[int], room: int) -> list[Window]:
    """Windows of at most ``room`` tokens, in which each word is read once.

    A word that several windows see is read where the nearer one of the window's edges is farther away.

    Args:
        counts: tokens of each word, none of them more than `overlap_of` the room.

    Returns:
        At least one window; the words that they read follow one another without a gap.
    """
    ends = list(accumulate(counts, initial=0))
    first, bounds = 0, []
    while ends[first] + room < ends[-1]:
        last = bisect_right(ends, ends[first] + room) - 1
        bounds.append((first, last))
        first = bisect_left(ends, ends[last] - overlap_of(room))
    if bounds:
        first = bisect_left(ends, ends[-1] - room)  # the last window is as full as the others
    bounds.append((first, len(counts)))
    borders = [0, *(_border(ends, before[1], after[0]) for before, after in pairwise(bounds)), len(counts)]
    return [Window(range(*seen), range(*read)) for seen, read in zip(bounds, pairwise(borders), strict=True)]


def _border(ends: Sequence[int], last: int, first: int) -> int:
    """The first word after ``first``, where a window begins, that is nearer to ``last``, where the one before ends."""
    shared = range(first, last)
    return next((word for word in shared if ends[word] - ends[first] > ends[last] - ends[word + 1]), last)
