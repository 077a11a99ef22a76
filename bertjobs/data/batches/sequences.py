"""[CLS] A [SEP] B [SEP], or [CLS] A [SEP]: rows laid out padded, or one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards.ids_shard import SPECIALS_ALONE, with_specials
from bertjobs.data.text.vocabulary import Vocabulary

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Int64s = NDArray[np.int64]

ALIGNMENT = 8  # rows are padded to a multiple of this, for tensor cores


@dataclass(frozen=True)
class Layout:
    """Where the tokens of rows stand in one flat array. A row without B has one [SEP].

    Attributes:
        row_starts: ``[rows + 1]``, where each [CLS] stands, and the array's size.
        a_lengths, lengths: ``[rows]``, tokens of A, and of A and B.
        num_tokens: ``[rows]``, with the special tokens.
        offsets: ``[rows + 1]``, where each row's A and B start without special tokens.
        text: ``[tokens]``, where the tokens of A and B stand.
    """

    row_starts: Int64s
    a_lengths: Int64s
    lengths: Int64s
    num_tokens: Int64s
    offsets: Int64s
    text: Int64s

    @classmethod
    def padded(cls, a_lengths: Int64s, lengths: Int64s) -> Layout:
        """Rows padded to the longest, rounded up to a multiple of 8."""
        num_tokens = with_specials(a_lengths, lengths)
        width = -(-int(num_tokens.max()) // ALIGNMENT) * ALIGNMENT
        return cls._of(np.arange(len(lengths) + 1) * width, a_lengths, lengths, num_tokens)

    @classmethod
    def packed(cls, a_lengths: Int64s, lengths: Int64s, size: int) -> Layout:
        """Rows one after the other in an array of ``size``, with padding only after the last."""
        num_tokens = with_specials(a_lengths, lengths)
        row_starts = offsets_of(num_tokens)
        row_starts[-1] = size
        return cls._of(row_starts, a_lengths, lengths, num_tokens)

    @classmethod
    def _of(cls, row_starts: Int64s, a_lengths: Int64s, lengths: Int64s, num_tokens: Int64s) -> Layout:
        offsets = offsets_of(lengths)
        # A stands one place, B two places after where the row's text would without special tokens.
        shift = row_starts[:-1] - offsets[:-1] + 1
        text = np.repeat(_alternating(shift, shift + 1), _alternating(a_lengths, lengths - a_lengths))
        text += np.arange(len(text))
        return cls(row_starts, a_lengths, lengths, num_tokens, offsets, text)

    def input_ids(self, ids: Array, vocabulary: Vocabulary) -> Array:
        """The rows' tokens, and [PAD] after them, from the flat tokens of A and B: of their type."""
        laid_out = np.full(self.row_starts[-1], vocabulary.pad_id, dtype=ids.dtype)
        starts = self.row_starts[:-1]
        laid_out[self.text] = ids
        laid_out[starts] = vocabulary.cls_id
        laid_out[starts + self.a_lengths + 1] = vocabulary.sep_id
        laid_out[starts + self.num_tokens - 1] = vocabulary.sep_id
        return laid_out

    def segments_of_padded(self) -> tuple[Bools, Bools]:
        """Where B and its [SEP] stand, and where any token: both ``[rows, length]``, of padded rows."""
        column = np.arange(self.row_starts[1], dtype=np.int32)
        real = column < self.num_tokens.astype(np.int32)[:, None]
        return real & (column > self.a_lengths.astype(np.int32)[:, None] + 1), real

    def segments_of_packed(self) -> tuple[Int64s, Int64s]:
        """1 on B and its [SEP], 0 elsewhere, and places in the row, 0 after the last one: both ``[size]``."""
        size, end = self.row_starts[-1], int(self.num_tokens.sum())
        second, positions = np.zeros((2, size), dtype=np.int64)
        firsts = self.a_lengths + SPECIALS_ALONE
        halves = _alternating(firsts, self.num_tokens - firsts)
        second[:end] = np.repeat(np.arange(len(halves)) & 1, halves)
        positions[:end] = np.arange(end) - np.repeat(self.row_starts[:-1], self.num_tokens)
        return second, positions


def _alternating(first: Int64s, second: Int64s) -> Int64s:
    """``first[0], second[0], first[1], ...``."""
    both = np.empty(2 * len(first), dtype=np.int64)
    both[::2], both[1::2] = first, second
    return both
