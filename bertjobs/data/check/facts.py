"""Counts over the rows of shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.batches.masking import prediction_counts, splitmix64
from bertjobs.data.batches.sequences import ALIGNMENT
from bertjobs.data.shards.ids_shard import ShardRows
from bertjobs.data.text.vocabulary import Vocabulary

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

_BLOCK = 1 << 20  # tokens hashed together
_KEYS = 1 << 24  # rows remembered, to find repeated ones


@dataclass(frozen=True)
class Facts:
    """Counts over rows; add two to have those of both.

    Attributes:
        tokens: [CLS] and [SEP] included; ``padding``: what is added where each row is padded to a multiple of 8.
        pairs: rows that have a B; random_next: rows whose B is a random segment.
        unknown: tokens that are [UNK], before masking.
        masked: tokens with static masks, of which ``as_mask`` are seen as [MASK], ``as_random`` as another token,
            ``as_kept`` as they were; ``wanted_masks``: by the settings.
        lengths: rows of each number of tokens, from 0: ``[longest + 1]``.
    """

    rows: int
    tokens: int
    padding: int
    bytes: int
    files: int
    pairs: int
    random_next: int
    unknown: int
    masked: int
    wanted_masks: int
    as_mask: int
    as_random: int
    as_kept: int
    lengths: Int64s

    def __add__(self, other: Facts) -> Facts:
        lengths = np.zeros(max(len(self.lengths), len(other.lengths)), dtype=np.int64)
        lengths[: len(self.lengths)] += self.lengths
        lengths[: len(other.lengths)] += other.lengths
        sums = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        return Facts(**sums, lengths=lengths)

    @property
    def mean_length(self) -> float:
        """Mean tokens per row."""
        return self.tokens / max(1, self.rows)

    def as_json(self) -> dict[str, Any]:
        """The counts; ``lengths`` as {tokens: rows}."""
        present = np.flatnonzero(self.lengths).tolist()
        return {name: getattr(self, name) for name in _COUNTS} | {
            "lengths": {str(length): int(self.lengths[length]) for length in present}
        }


_COUNTS = tuple(field.name for field in fields(Facts) if field.name != "lengths")
NOTHING = Facts(**dict.fromkeys(_COUNTS, 0), lengths=np.zeros(1, dtype=np.int64))


class RowKeys:
    """Keys of rows, in bounded memory: above a number only those below a bound are kept, equal rows alike."""

    def __init__(self, at_most: int = _KEYS) -> None:
        self._at_most, self._bound, self._keys = at_most, 1 << 64, np.zeros(0, dtype=np.uint64)

    def add(self, keys: UInt64s) -> None:
        """Remember rows."""
        self._keys = np.concatenate([self._keys, self._below(keys, self._bound)])
        while len(self._keys) > self._at_most:
            self._bound //= 2
            self._keys = self._below(self._keys, self._bound)

    def repeated(self) -> float:
        """The share of the rows that repeat an earlier one."""
        return 1 - len(np.unique(self._keys)) / len(self._keys) if len(self._keys) else 0.0

    def share_in(self, other: RowKeys) -> float:
        """The share of these rows that are among the others."""
        bound = min(self._bound, other._bound)
        mine = self._below(self._keys, bound)
        return float(np.isin(mine, self._below(other._keys, bound)).mean()) if len(mine) else 0.0

    @staticmethod
    def _below(keys: UInt64s, bound: int) -> UInt64s:
        return keys if bound == 1 << 64 else keys[keys < np.uint64(bound)]


def measure(shard: ShardRows, vocabulary: Vocabulary, size: int, masked_share: float, max_predictions: int) -> Facts:
    """The facts of a shard whose file has ``size`` bytes; the share and the most masks of a row are those expected."""
    num_tokens, unknown = shard.num_tokens, int(np.count_nonzero(shard.ids == vocabulary.unk_id))
    masked = wanted = as_mask = as_kept = 0
    if shard.masks is not None:
        labels, seen = shard.masks.labels, shard.ids[shard.masked_places]
        unknown += int(np.count_nonzero(labels == vocabulary.unk_id) - np.count_nonzero(seen == vocabulary.unk_id))
        masked, as_mask = len(labels), int(np.count_nonzero(seen == vocabulary.mask_id))
        as_kept = int(np.count_nonzero((seen == labels) & (seen != vocabulary.mask_id)))
        specials = num_tokens - np.diff(shard.offsets)
        wanted = int(prediction_counts(num_tokens, masked_share, max_predictions, specials).sum())
    return Facts(
        rows=shard.rows,
        tokens=int(num_tokens.sum()),
        padding=int((-num_tokens % ALIGNMENT).sum()),
        bytes=size,
        files=1,
        pairs=int(np.count_nonzero(shard.a_lengths < np.diff(shard.offsets))),
        random_next=int(np.count_nonzero(shard.is_random_next)),
        unknown=unknown,
        masked=masked,
        wanted_masks=wanted,
        as_mask=as_mask,
        as_random=masked - as_mask - as_kept,
        as_kept=as_kept,
        lengths=np.bincount(num_tokens, minlength=1),
    )


def row_keys(shard: ShardRows) -> UInt64s:
    """A hash of each row's A and B before masking: ``[rows]``."""
    offsets, ids = shard.offsets, shard.original_ids()
    keys = splitmix64(shard.a_lengths.astype(np.uint64))
    for first, last in _blocks(offsets):
        starts = offsets[first:last]
        places = np.arange(starts[0], offsets[last]) - np.repeat(starts, np.diff(offsets[first : last + 1]))
        placed = ids[starts[0] : offsets[last]].astype(np.uint64) | places.astype(np.uint64) << np.uint64(32)
        keys[first:last] += np.add.reduceat(splitmix64(placed), starts - starts[0])
    return splitmix64(keys)


def _blocks(offsets: Int64s) -> Iterator[tuple[int, int]]:
    """Runs of rows with about ``_BLOCK`` tokens each."""
    first, rows = 0, len(offsets) - 1
    while first < rows:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _BLOCK, side="right")) - 1)
        yield first, last
        first = last
