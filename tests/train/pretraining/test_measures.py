"""What pretraining counts in its batches, and what it logs about a step."""

from __future__ import annotations

import torch

from bertjobs.data.batches.batches import Batch
from bertjobs.recipe.flops import StepCounts
from bertjobs.train.pretraining.measures import counts_of, measures, step_words


def test_counts_leave_padding_out() -> None:
    lengths = torch.tensor([5, 8, 3])
    attention = (torch.arange(8) < lengths[:, None]).long()
    labels = torch.full((3, 8), -1)
    labels[0, 1], labels[2, 0], labels[2, 2] = 7, 0, 4
    batch = Batch(attention * 9, attention * 0, attention, labels, torch.zeros(3, dtype=torch.int64))
    assert counts_of([batch]) == StepCounts(3, 3, 16, 25 + 64 + 9)
    assert counts_of([batch, batch]) == StepCounts(6, 6, 32, 2 * 98)
    assert counts_of([]) == StepCounts(0, 0, 0, 0)


def test_the_log_states_the_losses_of_a_step() -> None:
    line = measures([70.0, 3.0, 2.8, 1.0], (10, 4))
    assert step_words(line) == "loss 7.7000  mlm 7.0000  accuracy 30.0%"
