"""Lengths of any size counted in a few hundred ranges, from which quantiles are read. Standard library only."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

_EXACT = 32  # shorter lengths have a range each
_PER_DOUBLING = 16  # ranges; a quantile is off by 2.5% or by 1 at most
_DOUBLINGS = 24

RANGES = (
    *range(_EXACT),
    *sorted({round(_EXACT * 2 ** (step / _PER_DOUBLING)) for step in range(_PER_DOUBLING * _DOUBLINGS)}),
)
"""The length that each range begins with."""


def quantile(counts: Mapping[int, int], share: float) -> int:
    """The length that a share of the lengths does not exceed, to within 2.5% or 1; 0 if there are none.

    Args:
        counts: lengths in each range, by the length that it begins with.
    """
    left = share * sum(counts.values())
    for start in sorted(counts):
        left -= counts[start]
        if left <= 0:
            end = RANGES[min(bisect_right(RANGES, start), len(RANGES) - 1)]
            return (start + max(end - 1, start)) // 2
    return 0


def quantiles(counts: Mapping[int, int]) -> tuple[int, int, int]:
    """The lengths that 5%, 50% and 95% do not exceed."""
    return quantile(counts, 0.05), quantile(counts, 0.5), quantile(counts, 0.95)
