"""A padded micro-batch as a pack: the same sequences, places and labels, without the padding."""

from __future__ import annotations

import torch

from bertjobs.data.batches.batches import Batch
from bertjobs.data.batches.unpadded import unpadded


def test_sequences_follow_each_other_without_padding() -> None:
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
    batch = Batch(
        input_ids=ids,
        token_type_ids=torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]]),
        attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        labels=torch.tensor([[-1, 9, -1, -1], [-1, 8, -1, -1]]),
        next_sentence_labels=torch.tensor([0, 1]),
    )
    pack = unpadded(batch)
    assert pack.input_ids.tolist() == [2, 5, 6, 3, 2, 7, 3]
    assert pack.token_type_ids.tolist() == [0, 0, 1, 1, 0, 0, 0]
    assert pack.positions.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert pack.cumulative_lengths.tolist() == [0, 4, 7]
    assert pack.first_tokens.tolist() == [0, 4]
    assert (pack.masked_positions.tolist(), pack.labels.tolist(), pack.masked) == ([1, 5], [9, 8], 2)
    assert (pack.lengths.tolist(), pack.max_length, pack.sequences, pack.tokens) == ([4, 3], 4, 2, 7)
    assert pack.next_sentence_labels.tolist() == [0, 1]
