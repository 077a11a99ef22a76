"""Some sequences, cut into micro-batches in the ways that are compared with each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from bertjobs.bench.sequences import BenchData
from bertjobs.data.batches.batches import Batch, MicroBatch, make_batch
from bertjobs.data.batches.order import SampleOrder
from bertjobs.data.batches.packed_batches import make_packed_batch
from bertjobs.data.batches.packing import Int64s, PackLimits, limits_for, pack
from bertjobs.model.bert import IGNORED_LABEL
from bertjobs.recipe.flops import StepCounts
from bertjobs.recipe.spec import PhaseSpec

_TILE = 64  # token budgets are a multiple of this
_DRAWN_FROM = 4096


@dataclass(frozen=True)
class TimedSequences:
    """Some sequences, and how they are cut; masks do not depend on the cut.

    Attributes:
        rows: ``[sequences]`` in the shard set, in the stream's order.
        by_length: padded micro-batches hold sequences of similar length.
    """

    data: BenchData
    rows: Int64s
    longest: int
    by_length: bool

    @classmethod
    def of(cls, data: BenchData, phase: PhaseSpec, sequences: int, by_length: bool) -> TimedSequences:
        """``sequences`` from the stream's beginning, whose lengths are spread as those of the whole beginning are."""
        order = SampleOrder(data.shards.rows, data.masking.seed, data.shards.left_out)
        _, rows = order.samples(0, max(sequences, min(order.kept, _DRAWN_FROM)))
        by_lengths = np.argsort(data.shards.lengths(rows), kind="stable")
        places = np.sort(by_lengths[((np.arange(sequences) + 0.5) * len(rows) / sequences).astype(np.int64)])
        return cls(data, rows[places], phase.sequence_length, by_length)

    @property
    def lengths(self) -> Int64s:
        """Tokens of each sequence, ``[sequences]``."""
        return self.data.shards.num_tokens(self.rows)

    @property
    def predictions(self) -> Int64s:
        """Masked tokens of each sequence, ``[sequences]``."""
        return self.data.masking.predictions(self.data.shards, self.rows)

    def counts(self) -> StepCounts:
        """What the model's arithmetic depends on."""
        lengths = self.lengths
        return StepCounts(len(lengths), int(self.predictions.sum()), int(lengths.sum()), int((lengths**2).sum()))

    def padded(self, micro_batch: int) -> list[Batch]:
        """Batches of ``micro_batch`` sequences; the last holds what is left."""
        places = np.argsort(self.lengths, kind="stable") if self.by_length else np.arange(len(self.rows))
        parts = [places[start : start + micro_batch] for start in range(0, len(places), micro_batch)]
        return [make_batch(self.data.shards, *self._chosen(part), self.data.masking) for part in parts]

    def fixed(self, micro_batch: int) -> list[Batch]:
        """The same, padded to the phase's length."""
        return [_widened(batch, self.longest) for batch in self.padded(micro_batch)]

    def packed(self, micro_batch: int) -> list[MicroBatch]:
        """As few packs as a budget of ``micro_batch`` full sequences allows, all about equally full."""
        limits, packs = self._limits(max(self.longest, micro_batch * self.longest))
        return [make_packed_batch(self.data.shards, *self._chosen(part), self.data.masking, limits) for part in packs]

    def _limits(self, most: int) -> tuple[PackLimits, list[Int64s]]:
        lengths, predictions = self.lengths, self.predictions
        count = math.ceil(lengths.sum() / most)
        start = max(self.longest, -(-int(lengths.sum()) // count // _TILE) * _TILE)
        for tokens in range(start, most + _TILE, _TILE):
            limits = limits_for(min(tokens, most), self.longest, lengths, predictions)
            packs = pack(lengths, predictions, limits)
            if len(packs) <= count or tokens >= most:
                return limits, packs
        raise AssertionError("the range ends with the budget")

    def _chosen(self, places: Int64s) -> tuple[Any, Any]:
        """Some of the rows and the keys of their masks."""
        chosen = self.data.shards.select(self.rows[places])
        return chosen, self.data.masking.keys(0, chosen.rows)

    def first(self, sequences: int) -> TimedSequences:
        """The first few sequences alone."""
        return replace(self, rows=self.rows[:sequences])


def _widened(batch: Batch, width: int) -> Batch:
    more = width - batch.input_ids.shape[1]

    def pad(tensor: Tensor, value: int) -> Tensor:
        return F.pad(tensor, (0, more), value=value)

    return Batch(
        pad(batch.input_ids, 0),
        pad(batch.token_type_ids, 0),
        pad(batch.attention_mask, 0),
        pad(batch.labels, IGNORED_LABEL),
        batch.next_sentence_labels,
    )
