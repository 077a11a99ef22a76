"""Whether ids repeat, in 8 bytes per id."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from bertjobs.errors import InputError

_BLOCK = 1 << 13


class Ids:
    """The ids of one file. Ids are kept as 64-bit hashes: of a million different ones, two are taken for equal once in
    30 million files. Repeats are found a block of ids late, at the latest by `check`.

    Args:
        else_hint: what to do in place of giving each example an id of its own; "" if there is nothing.
    """

    def __init__(self, else_hint: str = "") -> None:
        self._hint = "give each example an id of its own" + (f", or {else_hint}" if else_hint else "")
        self._sorted: list[NDArray[np.uint64]] = []
        self._hashes: list[int] = []
        self._ids: list[tuple[str, str]] = []

    def add(self, identifier: str, where: str) -> None:
        """Raises InputError for an id that was added before, and names where it stands for the second time."""
        digest = hashlib.blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self._hashes.append(int.from_bytes(digest, "little"))
        self._ids.append((identifier, where))
        if len(self._ids) == _BLOCK:
            self.check()

    def check(self) -> None:
        """Raises InputError if any id of those added so far repeats."""
        block = np.array(self._hashes, dtype=np.uint64)
        order = np.argsort(block, kind="stable")
        ordered = block[order]
        repeats = np.zeros(len(block), dtype=bool)
        repeats[order[1:]] = ordered[1:] == ordered[:-1]
        for older in self._sorted:
            places = np.minimum(np.searchsorted(older, block), len(older) - 1)
            repeats |= older[places] == block
        if repeats.any():
            identifier, where = self._ids[int(repeats.argmax())]
            raise InputError(f"the id {identifier!r} occurs a second time", where=where, hint=self._hint)
        self._keep(ordered)
        self._hashes.clear()
        self._ids.clear()

    def _keep(self, ordered: NDArray[np.uint64]) -> None:
        """Arrays of equal size are merged, so that there are few."""
        while self._sorted and len(self._sorted[-1]) <= len(ordered):
            ordered = np.sort(np.concatenate([self._sorted.pop(), ordered]), kind="stable")
        if len(ordered):
            self._sorted.append(ordered)
