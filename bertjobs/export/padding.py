"""Rows as padded batches, the form in which other programs call a model; without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bertjobs.tasks.rows import Row

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Each int64 ``[B, S]``, in this order, as Hugging Face's exporters name them."""


def padded(rows: Sequence[Row], pad: int = 0) -> dict[str, NDArray[np.int64]]:
    """Rows as `INPUTS`, each ``[rows, tokens of the longest]``.

    Args:
        pad: the id of padding.
    """
    shape = (len(rows), max(len(row.ids) for row in rows))
    ids, mask, types = np.full(shape, pad, dtype=np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for number, row in enumerate(rows):
        length = len(row.ids)
        ids[number, :length] = row.ids
        mask[number, :length] = 1
        types[number, row.second : length] = 1
    return dict(zip(INPUTS, (ids, mask, types), strict=True))
