"""Raw outputs as probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def softmax(raw: ArrayLike) -> NDArray[np.float64]:
    """Shares along the last axis, which add up to 1."""
    values = np.asarray(raw, dtype=np.float64)
    raised = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def sigmoid(raw: ArrayLike) -> NDArray[Any]:
    """The probabilities of log-odds."""
    values = np.asarray(raw, dtype=np.float64)
    raised = np.exp(-np.abs(values))  # at most 1: nothing overflows
    return np.where(values < 0, raised, 1.0) / (1 + raised)
