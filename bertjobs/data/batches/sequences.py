"""[CLS] A [SEP] B [SEP]: pairs laid out as padded rows, or one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.ragged import offsets_of
from bertjobs.data.text.vocabulary import Vocabulary

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Int64s = NDArray[np.int64]

ALIGNMENT = 8  # rows are padded to a multiple of this, for tensor cores
SPECIALS = 3


@dataclass(frozen=True)
class Layout:
    """Where the tokens of pairs stand in one flat array.

    Attributes:
        row_starts: ``[rows + 1]``, where each [CLS] stands, and the array's size.
        a_lengths, lengths: ``[rows]``, tokens of A, and of A and B.
        offsets: ``[rows + 1]``, where each row's A and B start without special tokens.
        text: ``[tokens]``, where the tokens of A and B stand.
    """

    row_starts: Int64s
    a_lengths: Int64s
    lengths: Int64s
    offsets: Int64s
    text: Int64s

    @classmethod
    def padded(cls, a_lengths: Int64s, lengths: Int64s) -> Layout:
        """Rows padded to the longest, rounded up to a multiple of 8."""
        width = -(-(int(lengths.max()) + SPECIALS) // ALIGNMENT) * ALIGNMENT
        return cls._of(np.arange(len(lengths) + 1) * width, a_lengths, lengths)

    @classmethod
    def packed(cls, a_lengths: Int64s, lengths: Int64s, size: int) -> Layout:
        """Rows one after the other in an array of ``size``, with padding only after the last."""
        row_starts = offsets_of(lengths + SPECIALS)
        row_starts[-1] = size
        return cls._of(row_starts, a_lengths, lengths)

    @classmethod
    def _of(cls, row_starts: Int64s, a_lengths: Int64s, lengths: Int64s) -> Layout:
        offsets = offsets_of(lengths)
        # A stands one place, B two places after where the row's text would without special tokens.
        shift = row_starts[:-1] - offsets[:-1] + 1
        text = np.repeat(_alternating(shift, shift + 1), _alternating(a_lengths, lengths - a_lengths))
        text += np.arange(len(text))
        return cls(row_starts, a_lengths, lengths, offsets, text)

    def input_ids(self, ids: Array, vocabulary: Vocabulary) -> Array:
        """[CLS] A [SEP] B [SEP] and then [PAD], from the flat tokens of A and B: of their type."""
        laid_out = np.full(self.row_starts[-1], vocabulary.pad_id, dtype=ids.dtype)
        starts = self.row_starts[:-1]
        laid_out[self.text] = ids
        laid_out[starts] = vocabulary.cls_id
        laid_out[starts + self.a_lengths + 1] = vocabulary.sep_id
        laid_out[starts + self.lengths + 2] = vocabulary.sep_id
        return laid_out

    def segments_of_padded(self) -> tuple[Bools, Bools]:
        """Where B and its [SEP] stand, and where any token: both ``[rows, length]``, of padded rows."""
        column = np.arange(self.row_starts[1], dtype=np.int32)
        real = column < (self.lengths + SPECIALS).astype(np.int32)[:, None]
        return real & (column > self.a_lengths.astype(np.int32)[:, None] + 1), real

    def segments_of_packed(self) -> tuple[Int64s, Int64s]:
        """1 on B and its [SEP], 0 elsewhere, and places in the row, 0 after the last one: both ``[size]``."""
        size, lengths = self.row_starts[-1], self.lengths + SPECIALS
        end = int(lengths.sum())
        second, positions = np.zeros((2, size), dtype=np.int64)
        halves = _alternating(self.a_lengths + 2, self.lengths - self.a_lengths + 1)
        second[:end] = np.repeat(np.arange(len(halves)) & 1, halves)
        positions[:end] = np.arange(end) - np.repeat(self.row_starts[:-1], lengths)
        return second, positions


def _alternating(first: Int64s, second: Int64s) -> Int64s:
    """``first[0], second[0], first[1], ...``."""
    both = np.empty(2 * len(first), dtype=np.int64)
    both[::2], both[1::2] = first, second
    return both
