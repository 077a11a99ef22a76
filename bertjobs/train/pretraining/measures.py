"""What pretraining measures: its fields of metrics.jsonl and validation.jsonl, and how the log states them.

A line of metrics.jsonl has, besides the fields of all objectives (`bertjobs.train.metrics`):

- ``loss_nats`` (MLM + NSP), ``mlm_loss_nats`` (mean over masked tokens), ``nsp_loss_nats`` (mean over sequences),
  ``mlm_accuracy`` and ``nsp_accuracy`` (0 to 1).

A run that predicts no next sentences has neither of those that begin with ``nsp``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from bertjobs.data.batches.batches import NOT_SCORED, Batch, MicroBatch
from bertjobs.recipe.flops import StepCounts

LOSSES = {"mlm_loss_nats": "MLM loss {:g}", "nsp_loss_nats": "NSP loss {:g} nats"}
"""As in `Objective.losses`."""
SCORES = ("loss_nats", "mlm_loss_nats", "nsp_loss_nats", "mlm_accuracy", "nsp_accuracy")
"""As in `Objective.scores`."""
NEXT_SENTENCE = ("nsp_loss_nats", "nsp_accuracy")
"""Those of them that a run without next sentences lacks."""


def counts_of(micro_batches: Iterable[MicroBatch]) -> StepCounts:
    """What a rank's micro-batches contain; the field-wise sum over ranks is the step's."""
    sequences = masked_tokens = tokens = squared_lengths = 0
    for batch in micro_batches:
        if isinstance(batch, Batch):
            lengths = batch.attention_mask.sum(dim=1)
            masked_tokens += int((batch.labels != NOT_SCORED).sum())
        else:
            lengths = torch.from_numpy(batch.lengths)
            masked_tokens += batch.masked
        sequences += batch.sequences
        tokens += int(lengths.sum())
        squared_lengths += int(lengths.square().sum())
    return StepCounts(sequences, masked_tokens, tokens, squared_lengths)


def divisors_of(counts: StepCounts, *, next_sentence: bool) -> tuple[int, ...]:
    """What the sums of `Forward`'s terms are divided by: masked tokens and sequences."""
    return (counts.masked_tokens, counts.sequences)[: 1 + next_sentence]


def measures(sums: Sequence[float], divisors: Sequence[int]) -> dict[str, float]:
    """As in `Objective.measures`: ``sums`` are MLM loss in nats, MLM hits, and where next sentences are predicted NSP
    loss in nats, NSP hits."""
    masked_tokens, mlm = divisors[0], sums[0] / divisors[0]
    if len(divisors) == 1:
        return {"loss_nats": mlm, "mlm_loss_nats": mlm, "mlm_accuracy": sums[1] / masked_tokens}
    sequences = divisors[1]
    nsp = sums[2] / sequences
    return {
        "loss_nats": mlm + nsp,
        "mlm_loss_nats": mlm,
        "nsp_loss_nats": nsp,
        "mlm_accuracy": sums[1] / masked_tokens,
        "nsp_accuracy": sums[3] / sequences,
    }


def step_words(line: Mapping[str, Any]) -> str:
    """As in `Objective.step_words`."""
    return f"loss {line['loss_nats']:.4f}  mlm {line['mlm_loss_nats']:.4f}  accuracy {line['mlm_accuracy']:.1%}"


def validation_words(line: Mapping[str, Any]) -> str:
    """As in `Objective.validation_words`."""
    words = (
        f"held-out mlm {line['mlm_loss_nats']:.4f} nats (unigram line {line['unigram_cross_entropy_nats']:.4f}), "
        f"accuracy {line['mlm_accuracy']:.1%}"
    )
    return f"{words}, nsp accuracy {line['nsp_accuracy']:.1%}" if "nsp_accuracy" in line else words
