"""[CLS] A [SEP] B [SEP]: pairs laid out as padded rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.vocabulary import Vocabulary

ALIGNMENT = 8  # rows are padded to a multiple of this, for tensor cores


@dataclass(frozen=True)
class Sequences:
    """Padded rows, each ``[rows, length]``.

    Attributes:
        input_ids: [CLS] A [SEP] B [SEP] and then [PAD].
        second: True on B and its [SEP].
        real: True where there is a token, False on padding.
        text: True on the tokens of A and B: what may be masked.
    """

    input_ids: NDArray[np.int64]
    second: NDArray[np.bool_]
    real: NDArray[np.bool_]
    text: NDArray[np.bool_]


def lay_out(
    ids: NDArray[Any],
    starts: NDArray[np.int64],
    a_lengths: NDArray[np.int64],
    num_tokens: NDArray[np.int64],
    vocabulary: Vocabulary,
) -> Sequences:
    """Lay pairs out as rows, padded to the longest, rounded up to a multiple of 8.

    Args:
        ids: flat tokens, where each pair's A and B stand one after the other.
        starts: ``[rows]``, where each A starts in ``ids``.
        a_lengths, num_tokens: ``[rows]``; ``num_tokens`` counts the three special tokens.
    """
    length = -(-int(num_tokens.max()) // ALIGNMENT) * ALIGNMENT
    column = np.arange(length)
    middle, end = a_lengths[:, None] + 1, num_tokens[:, None] - 1  # the two [SEP]
    real = column <= end
    text = (column > 0) & (column < end) & (column != middle)
    # In `ids` a token of A stands one place before its column, one of B two.
    source = starts[:, None] + column - 1 - (column > middle)
    input_ids = np.full(source.shape, vocabulary.pad_id, dtype=np.int64)
    input_ids[text] = ids[source[text]]
    input_ids[:, 0] = vocabulary.cls_id
    rows = np.arange(len(starts))
    input_ids[rows, middle[:, 0]] = vocabulary.sep_id
    input_ids[rows, end[:, 0]] = vocabulary.sep_id
    return Sequences(input_ids, real & (column > middle), real, text)
