"""Sample order: a pure function of (seed, epoch, step), whatever the number of ranks, workers or restarts."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]

_WORD = 0xFFFFFFFFFFFFFFFF


@lru_cache(maxsize=2)
def epoch_order(rows: int, seed: int, epoch: int) -> Int64s:
    """The order in which an epoch visits its rows: a permutation ``[rows]``, read-only.

    It sorts the raw output of a Philox generator keyed by (seed, epoch): those bits are fixed by the
    algorithm (Salmon et al., SC 2011), where a library's shuffle may change with its version.
    """
    draws = np.random.Philox(key=np.array([seed & _WORD, epoch & _WORD], dtype=np.uint64)).random_raw(rows)
    order = np.argsort(draws, kind="stable")
    order.flags.writeable = False
    return order


def global_batch(rows: int, seed: int, step: int, size: int) -> tuple[Int64s, Int64s]:
    """The samples of an optimizer step: places ``step * size + i`` of all epochs, one after the other.

    Args:
        rows: rows in an epoch.
        step: counts from 0.
        size: sequences in the global batch.

    Returns:
        The epoch and the row of each sample, both ``[size]``.
    """
    places = step * size + np.arange(size, dtype=np.int64)
    epochs, offsets = np.divmod(places, rows)
    samples = np.empty(size, dtype=np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        here = epochs == epoch
        samples[here] = epoch_order(rows, seed, epoch)[offsets[here]]
    return epochs, samples


def arrange(lengths: Int64s, world_size: int, micro_batch: int) -> Int64s:
    """Deal a global batch to ranks and micro-steps so that all ranks hold similar lengths at a time.

    The batch is sorted by length; micro-step k is its k-th block of ``world_size * micro_batch``, and rank
    r takes the r-th slice of the block.

    Args:
        lengths: tokens of each sequence of the global batch, ``[global batch]``.

    Returns:
        Places in the global batch, ``[micro-steps, world_size, micro_batch]``.

    Raises:
        ValueError: the global batch is no multiple of ``world_size * micro_batch``.
    """
    if len(lengths) % (world_size * micro_batch):
        raise ValueError(f"{len(lengths)} sequences do not divide by {world_size} ranks x {micro_batch}")
    return np.argsort(lengths, kind="stable").reshape(-1, world_size, micro_batch)


def rank_micro_batches(lengths: Int64s, rank: int, world_size: int, micro_batch: int) -> list[Int64s]:
    """The places in the global batch of each of a rank's micro-batches, in order; see ``arrange``."""
    return list(arrange(lengths, world_size, micro_batch)[:, rank])
