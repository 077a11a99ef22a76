"""Packed micro-batches made by hand, and the padded ones of the same sequences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bertjobs.data.batches.packed_batches import PackedBatch


def make_pack(
    lengths: Sequence[int],
    *,
    tokens: int,
    slots: int,
    predictions: int,
    max_length: int,
    vocabulary: int,
    seed: int = 0,
) -> PackedBatch:
    """Random tokens in sequences of these lengths, each with its second half as sentence B and 15% masked tokens."""
    random = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths])
    tail = starts[-1] + np.arange(1, slots - len(lengths) + 1) * max_length
    input_ids, token_type_ids, positions = np.zeros((3, tokens), dtype=np.int64)
    input_ids[: starts[-1]] = random.integers(1, vocabulary, starts[-1])
    masked: list[int] = []
    for start, end in itertools.pairwise(starts):
        positions[start:end] = np.arange(end - start)
        token_type_ids[(start + end) // 2 : end] = 1
        count = max(1, round(0.15 * (end - start)))
        masked += sorted(random.choice(np.arange(start + 1, end), count, replace=False))
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        token_type_ids=torch.from_numpy(token_type_ids),
        positions=torch.from_numpy(positions),
        cumulative_lengths=torch.from_numpy(np.append(starts, np.minimum(tail, tokens)).astype(np.int32)),
        first_tokens=_filled(starts[:-1], slots, 0),
        next_sentence_labels=_filled(random.integers(0, 2, len(lengths)), slots, -1),
        masked_positions=_filled(np.array(masked, dtype=np.int64), predictions, 0),
        labels=_filled(random.integers(1, vocabulary, len(masked)), predictions, -1),
        lengths=np.array(lengths, dtype=np.int64),
        masked=len(masked),
        max_length=max_length,
    )


def _filled(values: np.ndarray, size: int, rest: int) -> Tensor:
    return torch.from_numpy(np.append(values, np.full(size - len(values), rest))).long()


def padded(pack: PackedBatch) -> dict[str, Tensor]:
    """The arguments of ``pretraining_sums`` for the pack's sequences."""
    rows, width = len(pack.lengths), int(pack.lengths.max())
    real = torch.arange(width) < torch.from_numpy(pack.lengths)[:, None]
    labels = torch.full((len(pack.input_ids),), -1)
    labels[pack.masked_positions[: pack.masked]] = pack.labels[: pack.masked]

    def pad(flat: Tensor, rest: int) -> Tensor:
        return torch.full((rows, width), rest).masked_scatter(real, flat[: pack.tokens])

    return {
        "input_ids": pad(pack.input_ids, 0),
        "token_type_ids": pad(pack.token_type_ids, 0),
        "attention_mask": real.long(),
        "labels": pad(labels, -1),
        "next_sentence_labels": pack.next_sentence_labels[:rows],
    }
