"""Masked-language-model masks (BERT, arXiv 1810.04805, 3.1) from a counter-based generator.

Every draw is a hash of (seed, epoch, sample, position): it depends neither on the batch that a sample is in
nor on ranks, workers or restarts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UInt64s = NDArray[np.uint64]

_WORD = 0xFFFFFFFFFFFFFFFF
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_CHOOSE, _ACT, _REPLACE = (np.uint64(number << 32) for number in (1, 2, 3))  # streams, above any position


def splitmix64(values: UInt64s) -> UInt64s:
    """The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection that mixes well."""
    mixed = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def sample_keys(seed: int, epochs: NDArray[np.int64] | int, samples: NDArray[np.int64]) -> UInt64s:
    """One 64-bit key a sample, ``[samples]``, for its draws in its epoch.

    An epoch of -1 stands for masks that stay the same: those of validation and of static masking.
    """
    key = splitmix64(np.array([seed & _WORD], dtype=np.uint64))
    key = splitmix64(key ^ np.asarray(epochs, dtype=np.int64).astype(np.uint64))
    return splitmix64(key ^ samples.astype(np.uint64))


def prediction_counts(num_tokens: NDArray[np.int64], ratio: float, max_predictions: int) -> NDArray[np.int64]:
    """Masked tokens a sequence: ``ratio`` of its tokens, at least 1, at most ``max_predictions``.

    ``num_tokens`` counts [CLS] and the two [SEP], as LDDL does; these are never masked.
    """
    counts = np.maximum(1, np.rint(num_tokens * ratio).astype(np.int64))
    return np.minimum(np.minimum(counts, max_predictions), num_tokens - 3)


def mask_tokens(
    input_ids: NDArray[np.int64],
    maskable: NDArray[np.bool_],
    counts: NDArray[np.int64],
    keys: UInt64s,
    mask_id: int,
    vocabulary_size: int,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Mask ``counts`` of the maskable tokens of each row, all equally likely.

    Of the chosen, 80% become [MASK], 10% a token uniform over the whole vocabulary, 10% stay.

    Args:
        input_ids, maskable: ``[rows, length]``.
        counts, keys: ``[rows]``; counts at least 1 and at most the row's maskable tokens.

    Returns:
        The masked ids and which tokens were chosen, both ``[rows, length]``.
    """
    positions = np.arange(input_ids.shape[1], dtype=np.uint64)
    scores = splitmix64(keys[:, None] ^ (positions | _CHOOSE))
    scores[~maskable] = _WORD
    limits = np.take_along_axis(np.sort(scores, axis=1), counts[:, None] - 1, axis=1)
    chosen = scores <= limits

    rows, columns = np.nonzero(chosen)
    chosen_keys, chosen_positions = keys[rows], positions[columns]
    action = splitmix64(chosen_keys ^ (chosen_positions | _ACT)) >> np.uint64(11)
    share = action.astype(np.float64) * 2.0**-53
    replacement = splitmix64(chosen_keys ^ (chosen_positions | _REPLACE)) % np.uint64(vocabulary_size)
    kept = input_ids[rows, columns]
    masked = input_ids.copy()
    masked[rows, columns] = np.where(share < 0.8, mask_id, np.where(share < 0.9, replacement.astype(np.int64), kept))
    return masked, chosen
