"""Packed micro-batches: whole sequences one after the other in a budget of tokens, all tensors of fixed shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bertjobs.data.batches.budget import budget_for
from bertjobs.data.batches.masked_text import NOT_SCORED, Array, Int64s, Masking, UInt64s, int64_tensor, masked_text
from bertjobs.data.batches.order import SampleOrder
from bertjobs.data.batches.packing import PackLimits, limits_for
from bertjobs.data.batches.sequences import Layout
from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards.shard_set import SelectedRows, ShardSet

_SAMPLE = 1 << 16  # sequences that limits and budgets are drawn from


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch for attention over sequences of different lengths.

    T, S, P and ``max_length`` are those of `PackLimits`, in every batch of a run. After the sequences comes a tail of
    [PAD], which no head reads; to attention it is further sequences of up to ``max_length`` tokens.

    Attributes:
        input_ids: int64 ``[T]``.
        token_type_ids: int64 ``[T]``, 1 on B and its [SEP], 0 elsewhere.
        positions: int64 ``[T]``, from 0 in each sequence; 0 in the tail.
        cumulative_lengths: int32 ``[S + 1]``, from 0: where each sequence ends, and then each piece of the tail; T in
            the slots that are left.
        first_tokens: int64 ``[S]``, where each sequence starts; 0 in the other slots.
        next_sentence_labels: int64 ``[S]``, 1 where B is a random segment; -1 (not scored) in the other slots.
        masked_positions: int64 ``[P]``, where the masked tokens are, ascending; 0 after them.
        labels: int64 ``[P]``, their original ids; -1 (not scored) after them.
        lengths: int64 ``[sequences]``, tokens of each sequence; numpy, on the host.
        masked: masked tokens.
        max_length: the most tokens that a sequence has.
        number: from 0, among all packs of the step, whatever rank computes it.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    positions: Tensor
    cumulative_lengths: Tensor
    first_tokens: Tensor
    next_sentence_labels: Tensor
    masked_positions: Tensor
    labels: Tensor
    lengths: Int64s
    masked: int
    max_length: int
    number: int = 0

    @property
    def sequences(self) -> int:
        """Number of sequences. Does not wait for the device."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Number of the sequences' tokens, without the tail. Does not wait for the device."""
        return int(self.lengths.sum())

    def tensors(self) -> tuple[Tensor, ...]:
        """All eight, in the order of the attributes."""
        return tuple(self._tensors().values())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """The same batch on a device."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedBatch:
        """The same batch in page-locked memory, which a GPU reads while the CPU continues."""
        return self._changed(Tensor.pin_memory)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def _changed(self, change: Callable[[Tensor], Tensor]) -> PackedBatch:
        changed = {name: change(tensor) for name, tensor in self._tensors().items()}
        return replace(self, **changed)  # type: ignore[arg-type]


def make_packed_batch(
    shards: ShardSet, chosen: SelectedRows, keys: UInt64s | None, masking: Masking, limits: PackLimits
) -> PackedBatch:
    """Lay rows out one after the other and mask them as `make_batch` does; no rows make a batch that is all tail.

    Args:
        chosen: rows of ``shards`` within the limits, as `pack` chooses them.
        keys: of each sequence's draws, for dynamic masking; see ``masking.sample_keys``.

    Raises:
        ValueError: the masking is not the one that the shards were made for, or the rows exceed the limits.
        InputError: a shard is damaged; names it.
    """
    lengths = chosen.lengths + shards.specials
    if not limits.hold(lengths.sum(), len(lengths), 0):
        raise ValueError(f"{len(lengths)} sequences of {lengths.sum()} tokens exceed {limits}")
    layout = Layout.packed(chosen.a_lengths, chosen.lengths, limits.tokens)
    text = masked_text(shards, chosen, keys, masking, layout.offsets)
    second, positions = layout.segments_of_packed()
    return PackedBatch(
        input_ids=int64_tensor(layout.input_ids(text.ids, shards.vocabulary)),
        token_type_ids=int64_tensor(second),
        positions=int64_tensor(positions),
        cumulative_lengths=torch.from_numpy(_cumulative(lengths, limits).astype(np.int32)),
        first_tokens=_filled(layout.row_starts[:-1], limits.sequences, 0),
        next_sentence_labels=_filled(chosen.is_random_next, limits.sequences, NOT_SCORED),
        masked_positions=_filled(layout.text[text.scored], limits.predictions, 0),
        labels=_filled(text.labels, limits.predictions, NOT_SCORED),
        lengths=lengths,
        masked=len(text.labels),
        max_length=limits.max_length,
    )


def empty_pack(shards: ShardSet, masking: Masking, limits: PackLimits) -> PackedBatch:
    """A pack of a run's shapes without sequences."""
    nothing = np.zeros(0, dtype=np.int64)
    return make_packed_batch(shards, shards.select(nothing), masking.keys(0, nothing), masking, limits)


def _cumulative(lengths: Int64s, limits: PackLimits) -> Int64s:
    """Where the sequences, the pieces of the tail and the empty slots end: ``[S + 1]``."""
    ends = offsets_of(lengths)
    tail = ends[-1] + np.arange(1, limits.sequences - len(lengths) + 1) * limits.max_length
    return np.append(ends, np.minimum(tail, limits.tokens))


def _filled(values: Array, size: int, rest: int) -> Tensor:
    """Values, and ``rest`` in all places after them: ``[size]``."""
    if len(values) > size:
        raise ValueError(f"{len(values)} entries do not fit a pack of {size}")
    filled = np.full(size, rest, dtype=np.int64)
    filled[: len(values)] = values
    return int64_tensor(filled)


def packing_limits(shards: ShardSet, masking: Masking, *, most: int, max_length: int, global_batch: int) -> PackLimits:
    """The limits of a run on some shards, from the first 65,536 sequences of its stream: see `budget_for` and
    `limits_for`.

    Args:
        most: the most tokens that memory allows in a pack.
        global_batch: sequences per step, over all ranks.

    Raises:
        ValueError: the budget does not hold the longest sequence.
        InputError: a shard is damaged; names it.
    """
    rows, lengths = _sample(shards, masking)
    budget = budget_for(most, max_length, lengths, global_batch, _mean_length(shards))
    limits = limits_for(budget.tokens, max_length, lengths, masking.predictions(shards, rows))
    return replace(limits, packs=budget.packs)


def _sample(shards: ShardSet, masking: Masking) -> tuple[Int64s, Int64s]:
    """The rows that the stream begins with, and their tokens."""
    order = SampleOrder(shards.rows, masking.seed, shards.left_out)
    _, rows = order.samples(0, min(order.kept, _SAMPLE))
    return rows, shards.select(rows).lengths + shards.specials


def _mean_length(shards: ShardSet) -> float:
    """Mean tokens of all sequences."""
    tokens = sum(len(shard.ids) for shard in shards.shards)
    return tokens / sum(shard.rows for shard in shards.shards) + shards.specials
