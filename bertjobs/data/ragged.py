"""Rows of different lengths kept in one flat array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[Any]  # an array of any integer type


def offsets_of(lengths: Ints) -> NDArray[np.int64]:
    """Where each row starts, and at the end where the last one stops: ``[rows + 1]``."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def gather(flat: Ints, starts: Ints, lengths: Ints) -> Ints:
    """The slices ``flat[start : start + length]``, one after the other."""
    offsets = offsets_of(lengths)
    places = np.repeat(np.asarray(starts, dtype=np.int64) - offsets[:-1], lengths)
    places += np.arange(offsets[-1])
    return flat.take(places)
