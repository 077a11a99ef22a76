"""A padded micro-batch as a pack: what computes packs then reads it, too."""

from __future__ import annotations

import torch

from bertjobs.data.batches.batches import Batch
from bertjobs.data.batches.masked_text import NOT_SCORED
from bertjobs.data.batches.packed_batches import PackedBatch


def unpadded(batch: Batch) -> PackedBatch:
    """The sequences of a micro-batch one after the other, on the host; without a tail, and without unused slots."""
    real = batch.attention_mask.cpu().bool()
    lengths = real.sum(1)
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    labels = batch.labels.cpu()[real]
    masked = (labels != NOT_SCORED).nonzero().squeeze(1)
    return PackedBatch(
        input_ids=batch.input_ids.cpu()[real],
        token_type_ids=batch.token_type_ids.cpu()[real],
        positions=torch.arange(real.shape[1]).expand_as(real)[real],
        cumulative_lengths=ends.int(),
        first_tokens=ends[:-1],
        next_sentence_labels=batch.next_sentence_labels.cpu(),
        masked_positions=masked,
        labels=labels[masked],
        lengths=lengths.numpy(),
        masked=len(masked),
        max_length=int(lengths.max()) if len(lengths) else 0,
    )
