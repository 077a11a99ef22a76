"""Sample order: a pure function of (manifest, seed, step), whatever the number of ranks, workers or restarts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.batches.permutation import Permutation

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class StreamState:
    """Where a stream stands: what a checkpoint keeps of the data.

    Attributes:
        epoch: counts from 0.
        place: the first place of the epoch's order that has not been read; the rows of skipped shards keep theirs.
        step: global batches read.
        seed: of the order and the masks.
        manifest_sha256: of the data's MANIFEST.json.
        skipped: names of the shards, as ``split/name``, whose rows are left out.
        loader: who reads the shards, "bertjobs" or "lddl".
    """

    epoch: int
    place: int
    step: int
    seed: int
    manifest_sha256: str
    skipped: tuple[str, ...] = ()
    loader: str = "bertjobs"

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> StreamState:
        """The state as a checkpoint holds it, by ``dataclasses.asdict``."""
        return cls(**{**content, "skipped": tuple(content["skipped"])})


@dataclass(frozen=True)
class SampleOrder:
    """The samples of all epochs, one after the other: each epoch a permutation of the rows.

    Rows that are left out are skipped where they stand, so the order of all others is as it would be with
    them: no epoch loses a row, repeats one, or exchanges two.

    Attributes:
        rows: rows of an epoch, those left out included.
        left_out: ranges of rows, start and stop; apart from each other.
    """

    rows: int
    seed: int
    left_out: tuple[tuple[int, int], ...] = ()

    @property
    def kept(self) -> int:
        """Samples in an epoch."""
        return self.rows - sum(stop - start for start, stop in self.left_out)

    def samples(self, first: int, count: int) -> tuple[Int64s, Int64s]:
        """The epochs and rows of ``count`` samples from number ``first``, counted over all epochs: both ``[count]``."""
        epochs, numbers = np.divmod(np.arange(first, first + count, dtype=np.int64), self.kept)
        rows = np.empty(count, dtype=np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            low, high = np.searchsorted(epochs, [epoch, epoch + 1])
            places = _behind_gaps(numbers[low:high], _gaps(self, epoch))
            rows[low:high] = _permutation(self.rows, self.seed, epoch)(places)
        return epochs, rows

    def place(self, number: int) -> tuple[int, int]:
        """The epoch of a sample and its place in the epoch's order."""
        epoch, number = divmod(number, self.kept)
        return epoch, int(_behind_gaps(np.array([number]), _gaps(self, epoch))[0])

    def number(self, epoch: int, place: int) -> int:
        """The number of the first sample at or after a place: the inverse of ``place``."""
        return epoch * self.kept + place - int(np.searchsorted(_gaps(self, epoch), place))


@lru_cache(maxsize=2)
def _permutation(rows: int, seed: int, epoch: int) -> Permutation:
    return Permutation(rows, seed, epoch)


@lru_cache(maxsize=2)
def _gaps(order: SampleOrder, epoch: int) -> Int64s:
    """The places of the rows that an order leaves out, ascending."""
    if not order.left_out:
        return np.zeros(0, dtype=np.int64)
    rows = np.concatenate([np.arange(start, stop) for start, stop in order.left_out])
    return np.sort(_permutation(order.rows, order.seed, epoch).places(rows))


def _behind_gaps(numbers: Int64s, gaps: Int64s) -> Int64s:
    """The places of kept samples, by their numbers in the epoch: before number n are all gaps that have at most n
    kept places before them."""
    return numbers + np.searchsorted(gaps - np.arange(len(gaps)), numbers, side="right") if len(gaps) else numbers


def arrange(lengths: Int64s, world_size: int, micro_batch: int) -> Int64s:
    """Deal a global batch to ranks and micro-steps so that all ranks hold similar lengths at a time.

    The batch is sorted by length; micro-step k is its k-th block of ``world_size * micro_batch``, and rank
    r takes the r-th slice of the block.

    Args:
        lengths: tokens of each sequence of one or more global batches, ``[..., global batch]``.

    Returns:
        Places in the global batch, ``[..., micro-steps, world_size, micro_batch]``.

    Raises:
        ValueError: the global batch is not a multiple of ``world_size * micro_batch``.
    """
    if lengths.shape[-1] % (world_size * micro_batch):
        raise ValueError(f"{lengths.shape[-1]} sequences are not a multiple of {world_size} ranks x {micro_batch}")
    order = np.argsort(lengths.astype(np.uint16), axis=-1, kind="stable")  # a radix sort, for two bytes
    return order.reshape(*lengths.shape[:-1], -1, world_size, micro_batch)
