"""Shards of token ids: one safetensors file, mapped when read.

Arrays: ``ids`` (A and then B of each row, no special tokens; with static masking the masked tokens), ``offsets``
``[rows + 1]`` into it, ``a_lengths`` and ``is_random_next`` ``[rows]``; with static masking ``mask_offsets``
``[rows + 1]`` into ``mask_positions`` (places in [CLS] A [SEP] B [SEP], ascending) and ``mask_labels`` (the
original ids).

Without next-sentence pairs a row is [CLS] A [SEP]: there is no B, so ``a_lengths`` are the rows' lengths. Its text may
be of several documents; then ``ids`` hold the [SEP] between them, which is never masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bertjobs.files.arrays import map_arrays

Int64s = NDArray[np.int64]

SPECIALS = 3  # [CLS] A [SEP] B [SEP]
SPECIALS_ALONE = 2  # [CLS] A [SEP]


@dataclass(frozen=True)
class StoredMasks:
    """Static masks: the places in [CLS] A [SEP] B [SEP] and the original ids, flat over the rows.

    ``offsets`` is ``[rows + 1]``.
    """

    positions: NDArray[np.uint16]
    labels: NDArray[Any]
    offsets: Int64s


@dataclass(frozen=True)
class ShardRows:
    """The rows of one file.

    Attributes:
        ids: the tokens of A and then B of each row, flat; of the type that ``ids_type`` gives.
        offsets: ``[rows + 1]``, into ``ids``.
        a_lengths: ``[rows]``, tokens in A.
        is_random_next: ``[rows]``.
        masks: stored masks, or None. Where there are some, ``ids`` hold the masked tokens.
    """

    ids: NDArray[Any]
    offsets: Int64s
    a_lengths: NDArray[np.uint16]
    is_random_next: NDArray[np.bool_]
    masks: StoredMasks | None

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return len(self.a_lengths)

    @property
    def num_tokens(self) -> Int64s:
        """Tokens of each sequence with [CLS] and [SEP]: ``[rows]``."""
        return with_specials(self.a_lengths, np.diff(self.offsets))

    @property
    def masked_places(self) -> Int64s:
        """Where in ``ids`` the stored masks are: ``[masks]``."""
        if self.masks is None:
            return np.zeros(0, dtype=np.int64)
        rows = np.repeat(np.arange(self.rows), np.diff(self.masks.offsets))
        return self.offsets[rows] + places_in_text(self.masks.positions, self.a_lengths[rows])

    def original_ids(self) -> NDArray[Any]:
        """``ids`` as they were before static masking; a copy where there are masks."""
        if self.masks is None:
            return self.ids
        ids = self.ids.copy()
        ids[self.masked_places] = self.masks.labels
        return ids

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the file that holds this shard."""
        arrays = {name: getattr(self, name) for name in ("ids", "offsets", "a_lengths", "is_random_next")}
        if self.masks is not None:
            arrays |= {f"mask_{name}": getattr(self.masks, name) for name in ("offsets", "positions", "labels")}
        return arrays


def with_specials(a_lengths: NDArray[Any], lengths: Int64s) -> Int64s:
    """Tokens of [CLS] A [SEP] B [SEP], or of [CLS] A [SEP] where there is no B: ``[rows]``, as are the tokens of A, and
    of A and B, that are given."""
    return lengths + SPECIALS_ALONE + (lengths > a_lengths)


def places_in_text(positions: NDArray[np.uint16], a_lengths: NDArray[Any] | int) -> Int64s:
    """Places in [CLS] A [SEP] B [SEP] as places in A and B: without [CLS] and the [SEP] after A."""
    return positions.astype(np.int64) - 1 - (positions > a_lengths)


def ids_type(vocabulary_size: int) -> type[np.uint16] | type[np.uint32]:
    """The type of ids: two bytes where the vocabulary allows."""
    return np.uint16 if vocabulary_size <= 1 << 16 else np.uint32


def read_ids_shard(path: Path, vocabulary_size: int) -> ShardRows:
    """Map a shard; no token is read.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is truncated, or its arrays are not those of a shard; says what was expected.
    """
    arrays, _ = map_arrays(path)
    ids = ids_type(vocabulary_size)
    kinds: dict[str, DTypeLike] = {"ids": ids, "offsets": np.int64, "a_lengths": np.uint16, "is_random_next": np.bool_}
    if "mask_offsets" in arrays:
        kinds |= {"mask_offsets": np.int64, "mask_positions": np.uint16, "mask_labels": ids}
    for name, kind in kinds.items():
        if name not in arrays:
            raise ValueError(f"it has no array {name!r}, only {', '.join(arrays)}")
        if arrays[name].dtype != kind or arrays[name].ndim != 1:
            actual = f"{arrays[name].dtype} of {arrays[name].ndim} dimensions"
            raise ValueError(f"array {name!r} is {actual}, not {np.dtype(kind)} of one")
    rows = len(arrays["a_lengths"])
    masks = None
    if "mask_offsets" in arrays:
        _check_offsets(arrays, "mask_offsets", rows, ("mask_positions", "mask_labels"))
        masks = StoredMasks(arrays["mask_positions"], arrays["mask_labels"], arrays["mask_offsets"])
    _check_offsets(arrays, "offsets", rows, ("ids",))
    if len(arrays["is_random_next"]) != rows:
        raise ValueError(f"is_random_next has {len(arrays['is_random_next'])} rows, but a_lengths {rows}")
    return ShardRows(arrays["ids"], arrays["offsets"], arrays["a_lengths"], arrays["is_random_next"], masks)


def _check_offsets(arrays: dict[str, NDArray[Any]], name: str, rows: int, into: tuple[str, ...]) -> None:
    offsets = arrays[name]
    if len(offsets) != rows + 1 or offsets[0] != 0:
        raise ValueError(f"{name} has {len(offsets)} numbers instead of {rows + 1}, or does not begin with 0")
    for target in into:
        if offsets[-1] != len(arrays[target]):
            raise ValueError(f"{name} ends at {offsets[-1]}, but {target} has {len(arrays[target])} items")
