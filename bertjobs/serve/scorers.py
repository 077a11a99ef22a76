"""What is computed of a model in a pack: its head's outputs, vectors of texts, words under masks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from bertjobs.data.ragged import offsets_of
from bertjobs.finetune.batches import TaskBatch, make_batch
from bertjobs.finetune.encoder import PretrainedBert
from bertjobs.finetune.loading import TrainedModel
from bertjobs.finetune.outputs import outputs_of, read_places, recurring
from bertjobs.finetune.predict import HeldRows
from bertjobs.model.attention import ChosenAttention
from bertjobs.model.packed import encode, rows_read
from bertjobs.serve.engine import Outputs
from bertjobs.tasks.rows import Head, Row
from bertjobs.train.precision import autocast

GUESSES = 100
"""Words that are kept for each mask."""
_MASKS_AT_A_TIME = 64
"""Masks whose probabilities of all words are in memory at once."""

EVERY_TOKEN = Head("span", 2)
"""Reads all places of a row."""


class HeadScorer:
    """The outputs of a fine-tuned model's head, raw."""

    def __init__(self, model: str, trained: TrainedModel) -> None:
        self.model, self._trained = model, trained
        trained.forward.eval()

    def __call__(self, rows: Sequence[Row]) -> Outputs:
        trained, held = self._trained, HeldRows(rows)
        together = int(held.lengths.sum())
        computed = outputs_of(trained.forward, held, precision=trained.precision, budget=together)
        return [computed[first:last] for first, last in pairwise(offsets_of(read_places(held, trained.head)))]


class EmbeddingScorer:
    """Two vectors of each row, ``[2, hidden size]``: the mean over all tokens, and that of [CLS]."""

    def __init__(self, model: str, bert: PretrainedBert, attention: ChosenAttention, precision: str) -> None:
        self.model, self._bert, self._attention, self._precision = model, bert, attention, precision

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Row]) -> Outputs:
        batch = _batch(rows, EVERY_TOKEN, self._bert, self._precision)
        with autocast(self._precision, batch.input_ids.device):
            hidden = _hidden(self._bert, batch, self._attention)
        lengths = torch.from_numpy(batch.lengths).to(hidden.device)
        number = torch.repeat_interleave(torch.arange(len(rows), device=hidden.device), lengths)
        sums = hidden.new_zeros(len(rows), hidden.shape[1]).index_add_(0, number, hidden)
        firsts = hidden[batch.cumulative_lengths[:-1].long()]
        return list(torch.stack([sums / lengths[:, None], firsts], 1).cpu().numpy())


class MaskScorer:
    """For each mask of a row the likeliest words, ``[masks, GUESSES, 2]``: a word's id, and its probability."""

    def __init__(self, model: str, bert: PretrainedBert, attention: ChosenAttention, precision: str) -> None:
        self.model, self._bert, self._attention, self._precision = model, bert, attention, precision

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Row]) -> Outputs:
        vocabulary = self._bert.spec.vocab_size
        batch = _batch(rows, Head("token", vocabulary), self._bert, self._precision)
        with autocast(self._precision, batch.input_ids.device):
            hidden = _hidden(self._bert, batch, self._attention)
        best = [self._best(part, min(GUESSES, vocabulary)) for part in hidden.split(_MASKS_AT_A_TIME)]
        chosen = torch.cat(best).cpu().numpy()
        return [chosen[first:last] for first, last in pairwise(offsets_of(np.array([len(row.read) for row in rows])))]

    def _best(self, hidden: Tensor, count: int) -> Tensor:
        shares = self._bert.model.mlm_logits(hidden).float().softmax(1)
        best = shares.topk(count, dim=1)
        return torch.stack([best.indices.float(), best.values], 2)  # ids are exact below 2^24


def _batch(rows: Sequence[Row], head: Head, bert: PretrainedBert, precision: str) -> TaskBatch:
    batch = make_batch(HeldRows(rows), np.arange(len(rows)), head)
    return recurring(batch, precision, bert.device).to(bert.device)


def _hidden(bert: PretrainedBert, batch: TaskBatch, attention: ChosenAttention) -> Tensor:
    """The last layer's vectors of the places that are read: float32 ``[places, hidden size]``."""
    return encode(bert.model.bert, batch, rows_read(batch, batch.read), attention).float()
