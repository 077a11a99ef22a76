"""The text of some rows with its masks, before it is laid out in batches of one shape or another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertjobs.data.batches.masking import mask_text, prediction_counts, sample_keys
from bertjobs.data.shards.shard_set import SelectedRows, ShardSet
from bertjobs.recipe.predictions import MASKED_SHARE

Array = NDArray[Any]
Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

NOT_SCORED = -1


@dataclass(frozen=True)
class Masking:
    """How labels are made.

    Attributes:
        kind: "dynamic" (drawn from seed, epoch and row) or "static" (as stored).
        seed: of the dynamic draws.
        max_predictions, ratio: of the dynamic draws; see ``masking.prediction_counts``.
        whole_word: dynamic draws take all pieces of a word together.
    """

    kind: str
    seed: int
    max_predictions: int
    ratio: float = MASKED_SHARE
    whole_word: bool = False

    def keys(self, epochs: Int64s | int, rows: Int64s) -> UInt64s | None:
        """The keys of some rows' draws in their epochs; None if the masks are stored."""
        return sample_keys(self.seed, epochs, rows) if self.kind == "dynamic" else None

    def predictions(self, shards: ShardSet, rows: Int64s) -> Int64s:
        """Masked tokens of each of some rows, ``[rows]``; dynamic masks may be fewer: of whole words, or where most of
        a row are [SEP] between documents.

        Raises:
            InputError: a shard is damaged; names it.
        """
        if self.kind == "static":
            return shards.select(rows).mask_counts
        return self.counts(shards.num_tokens(rows), shards.specials)

    def counts(self, num_tokens: Int64s, specials: int) -> Int64s:
        """How many tokens dynamic masking chooses in rows of so many tokens, of which ``specials`` are [CLS] and [SEP]:
        ``[rows]``."""
        return prediction_counts(num_tokens, self.ratio, self.max_predictions, specials)


@dataclass(frozen=True)
class MaskedText:
    """The tokens of A and B of some rows, flat, masked, and what is to be predicted.

    ``scored`` (ascending) and ``labels``, both ``[masks]``, are places in ``ids`` and their original ids.
    """

    ids: Array
    scored: Int64s
    labels: Array


def masked_text(
    shards: ShardSet, chosen: SelectedRows, keys: UInt64s | None, masking: Masking, offsets: Int64s
) -> MaskedText:
    """Read and mask rows.

    Args:
        keys: of each row's draws, for dynamic masking; see ``masking.sample_keys``.
        offsets: ``[rows + 1]``, where each row's text starts.

    Raises:
        ValueError: the masking is not the one that the shards were made for.
        InputError: a shard is damaged; names it.
    """
    if (masking.kind == "static") != shards.static:
        raise ValueError(f"shards {'with' if shards.static else 'without'} masks, masking {masking.kind!r}")
    if not len(chosen.rows):
        none = np.zeros(0, dtype=np.int64)
        return MaskedText(none, none, none)
    ids = shards.text(chosen)
    if keys is None:
        return MaskedText(ids, *shards.stored_masks(chosen))
    counts = masking.counts(chosen.lengths + shards.specials, shards.specials)
    masked, is_chosen = mask_text(
        ids, offsets, chosen.a_lengths, counts, keys, shards.vocabulary, whole_word=masking.whole_word
    )
    scored = np.flatnonzero(is_chosen)
    return MaskedText(masked, scored, ids[scored])


def int64_tensor(array: Array) -> Tensor:
    """An array as a tensor of int64; of the same memory where it is int64."""
    return torch.from_numpy(array.astype(np.int64, copy=False))
