"""A random order of any number of rows of which any part is computed without the rest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.batches.masking import splitmix64

Int64s = NDArray[np.int64]

ROUNDS = 12  # four suffice for large domains (Luby and Rackoff, SIAM J. Computing 1988); orders of 5 rows need these
_WORD = 0xFFFFFFFFFFFFFFFF


class Permutation:
    """A permutation of ``range(rows)``, keyed by (seed, epoch): a function of the place, and its inverse.

    A generalised Feistel network (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002) over
    a * b >= rows numbers, a and b about the root of rows; what falls outside ``rows`` goes through again (cycle
    walking), fewer than one in root(rows). The round functions are SplitMix64, tabulated: 12 * root(rows) numbers.
    """

    def __init__(self, rows: int, seed: int, epoch: int) -> None:
        self.rows = rows
        self._a = math.isqrt(max(rows, 1) - 1) + 1  # the root, rounded up
        self._b = -(-max(rows, 1) // self._a)
        key = np.array([seed & _WORD], dtype=np.uint64)
        key = splitmix64(splitmix64(key) ^ np.uint64(epoch & _WORD))
        # Even rounds add a function of the right half (below b) to the left one (below a), odd rounds the reverse.
        self._tables = tuple(
            _round_function(key, number, *((self._b, self._a) if number % 2 == 0 else (self._a, self._b)))
            for number in range(ROUNDS)
        )

    def __call__(self, places: NDArray[Any]) -> Int64s:
        """The rows at some places of the order; both 0 to rows - 1."""
        return self._walk(places, self._forward)

    def places(self, rows: NDArray[Any]) -> Int64s:
        """The places that some rows have in the order: the inverse."""
        return self._walk(rows, self._backward)

    def _walk(self, values: NDArray[Any], network: Any) -> Int64s:
        reached = network(np.asarray(values, dtype=np.int64))
        outside = np.flatnonzero(reached >= self.rows)
        while len(outside):
            reached[outside] = network(reached[outside])
            outside = outside[reached[outside] >= self.rows]
        return reached

    def _forward(self, values: Int64s) -> Int64s:
        left = values // self._b
        right = values - left * self._b
        for number, table in enumerate(self._tables):
            if number % 2 == 0:
                left = _reduced(left + table.take(right), self._a)
            else:
                right = _reduced(right + table.take(left), self._b)
        return left * self._b + right

    def _backward(self, values: Int64s) -> Int64s:
        left = values // self._b
        right = values - left * self._b
        for number, table in reversed(list(enumerate(self._tables))):
            if number % 2 == 0:
                left = _reduced(left + (self._a - table.take(right)), self._a)
            else:
                right = _reduced(right + (self._b - table.take(left)), self._b)
        return left * self._b + right


def _reduced(sums: Int64s, modulus: int) -> Int64s:
    """Sums below twice the modulus, modulo it: what would be negative is, unsigned, the larger of the two."""
    return np.minimum(sums.view(np.uint64), (sums - modulus).view(np.uint64)).view(np.int64)


def _round_function(key: NDArray[np.uint64], number: int, inputs: int, outputs: int) -> Int64s:
    """A table from ``inputs`` numbers to numbers below ``outputs``, by the high half of a hash (its bias is
    negligible: outputs are below 2^32)."""
    words = splitmix64(splitmix64(key ^ np.uint64(number)) ^ np.arange(inputs, dtype=np.uint64))
    return ((words >> np.uint64(32)) * np.uint64(outputs) >> np.uint64(32)).astype(np.int64)
