"""Sequences to batches of tensors, built ahead of the training step by background threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertjobs.data.ids_shard import SPECIALS
from bertjobs.data.masking import mask_flat, prediction_counts, sample_keys, word_begins
from bertjobs.data.sequences import Layout
from bertjobs.data.shard_set import Selection, ShardSet
from bertjobs.data.shards import FIXED_EPOCH
from bertjobs.data.stream import SampleOrder, StreamState, arrange

Array = NDArray[Any]
Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]

NOT_SCORED = -1
MASKED_SHARE = 0.15
_PLANNED = 4096  # sequences whose order and places are looked up at a time, of one epoch


@dataclass(frozen=True)
class Batch:
    """A micro-batch; all int64, on one device.

    Attributes:
        input_ids: ``[sequences, length]``, the length a multiple of 8; padding is [PAD].
        token_type_ids: 1 on B and its [SEP], 0 elsewhere.
        attention_mask: 1 on tokens, 0 on padding.
        labels: the original id where a token is masked, -1 (not scored) elsewhere.
        next_sentence_labels: ``[sequences]``, 1 where B is a random segment.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    next_sentence_labels: Tensor

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return self.input_ids.shape[0]

    @property
    def tokens(self) -> int:
        """Number of tokens without padding. Waits for the device."""
        return int(self.attention_mask.sum())

    def tensors(self) -> tuple[Tensor, ...]:
        """All five, in the order that the model's forward takes."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on a device."""
        return Batch(*(tensor.to(device, non_blocking=non_blocking) for tensor in self.tensors()))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, which a GPU reads while the CPU goes on."""
        return Batch(*(tensor.pin_memory() for tensor in self.tensors()))


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch without padding, for attention over sequences of different lengths.

    Attributes:
        input_ids, token_type_ids, labels: as in `Batch`, int64 ``[tokens]``, one sequence after the other.
        cumulative_lengths: int32 ``[sequences + 1]``, where each sequence starts and the last one stops.
        max_length: tokens of the longest.
        next_sentence_labels: as in `Batch`, ``[sequences]``.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    labels: Tensor
    cumulative_lengths: Tensor
    max_length: int
    next_sentence_labels: Tensor


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
        """The keys of some rows' draws in their epochs; None where the masks are stored."""
        return sample_keys(self.seed, epochs, rows) if self.kind == "dynamic" else None


@dataclass(frozen=True)
class _MaskedText:
    """The tokens of A and B of some rows, flat, masked, and what is to be predicted.

    ``scored`` and ``labels``, both ``[masks]``, are places in ``ids`` and their original ids.
    """

    ids: Array
    scored: Int64s
    labels: Array


def make_batch(shards: ShardSet, chosen: Selection, keys: UInt64s | None, masking: Masking) -> Batch:
    """Lay rows out, mask them and pad them to a multiple of 8.

    Args:
        chosen: rows of ``shards``.
        keys: of each sequence's draws, for dynamic masking; see ``masking.sample_keys``.

    Raises:
        ValueError: the masking is not the one that the shards were made for.
        InputError: a shard is damaged; names it.
    """
    layout = Layout.padded(chosen.a_lengths, chosen.lengths)
    text = _masked_text(shards, chosen, keys, masking, layout.offsets)
    second, real = layout.segments_of_padded()
    return Batch(
        _tensor(layout.input_ids(text.ids, shards.vocabulary).reshape(real.shape)),
        _tensor(second),
        _tensor(real),
        _tensor(_labels(layout, text).reshape(real.shape)),
        _tensor(chosen.is_random_next),
    )


def make_packed_batch(shards: ShardSet, chosen: Selection, keys: UInt64s | None, masking: Masking) -> PackedBatch:
    """The batch that `make_batch` makes, without padding."""
    layout = Layout.packed(chosen.a_lengths, chosen.lengths)
    text = _masked_text(shards, chosen, keys, masking, layout.offsets)
    return PackedBatch(
        _tensor(layout.input_ids(text.ids, shards.vocabulary)),
        _tensor(layout.segments_of_packed()),
        _tensor(_labels(layout, text)),
        torch.from_numpy(layout.row_starts.astype(np.int32)),
        int(chosen.lengths.max()) + SPECIALS,
        _tensor(chosen.is_random_next),
    )


def _masked_text(
    shards: ShardSet, chosen: Selection, keys: UInt64s | None, masking: Masking, offsets: Int64s
) -> _MaskedText:
    if (masking.kind == "static") != shards.static:
        raise ValueError(f"shards {'with' if shards.static else 'without'} masks, masking {masking.kind!r}")
    ids = shards.text(chosen)
    if keys is None:
        return _MaskedText(ids, *shards.stored_masks(chosen))
    counts = prediction_counts(chosen.lengths + SPECIALS, masking.ratio, masking.max_predictions)
    vocabulary = shards.vocabulary
    begins = word_begins(vocabulary.continues[ids], offsets, chosen.a_lengths) if masking.whole_word else None
    masked, is_chosen = mask_flat(ids, offsets, counts, keys, vocabulary.mask_id, vocabulary.size, begins)
    scored = np.flatnonzero(is_chosen)
    return _MaskedText(masked, scored, ids[scored])


def _labels(layout: Layout, text: _MaskedText) -> Int64s:
    labels = np.full(layout.row_starts[-1], NOT_SCORED, dtype=np.int64)
    labels[layout.text[text.scored]] = text.labels
    return labels


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(array.astype(np.int64, copy=False))


class BatchStream:
    """One rank's micro-batches, optimizer step after optimizer step, without end.

    Iterating gives a list of ``Batch`` a step. What a step holds is a pure function of (seed, step); the
    threads only build it earlier. Close it, or use it in ``with``.

    Args:
        global_batch: sequences a step over all ranks, a multiple of ``world_size * micro_batch``.
        micro_batch: sequences in one batch.
        start: where to begin, the very beginning if None. Where it was written with other shards skipped, the
            stream goes on at its place in the epoch's order: no row is read a second time.
        num_workers: threads that build batches ahead, up to the next step; 0 builds them when asked.
        pin_memory: put batches into page-locked memory, for a GPU to copy from.
        manifest_sha256, skipped: of the data, for `state`.
    """

    def __init__(
        self,
        shards: ShardSet,
        masking: Masking,
        *,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        start: StreamState | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        manifest_sha256: str = "",
        skipped: tuple[str, ...] = (),
    ) -> None:
        self._shards, self._masking = shards, masking
        self._global_batch, self._micro_batch = global_batch, micro_batch
        self._rank, self._world_size = rank, world_size
        self._pin = pin_memory
        self._manifest_sha256, self._skipped = manifest_sha256, skipped
        self._order = SampleOrder(shards.rows, masking.seed, shards.left_out)
        start = start or StreamState(0, 0, 0, masking.seed, manifest_sha256)
        self._first = self._order.number(start.epoch, start.place) - start.step * global_batch
        self._step = start.step  # the first that is not planned
        self._pool = ThreadPoolExecutor(num_workers, "batches") if num_workers else None
        self._planned: deque[list[Callable[[], Batch]]] = deque()
        self._ahead: deque[list[Future[Batch]]] = deque()

    def state(self, step: int) -> StreamState:
        """Where the stream stands once ``step`` global batches have been read, whatever is built ahead."""
        epoch, place = self._order.place(self._first + step * self._global_batch)
        return StreamState(epoch, place, step, self._masking.seed, self._manifest_sha256, self._skipped)

    def samples(self, step: int) -> list[str]:
        """The sequences of a global batch, over all ranks, as ``shard's file name:row``."""
        rows = self._order.samples(self._first + step * self._global_batch, self._global_batch)[1]
        return self._shards.names(rows)

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        if self._pool is None:
            return [build() for build in self._next_builders()]
        while len(self._ahead) < 2:
            self._ahead.append([self._pool.submit(build) for build in self._next_builders()])
        return [future.result() for future in self._ahead.popleft()]

    def close(self) -> None:
        """Stop the threads; batches that were built ahead are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next_builders(self) -> list[Callable[[], Batch]]:
        if not self._planned:
            self._plan()
        return self._planned.popleft()

    def _plan(self) -> None:
        """Decide what the next steps hold: many at once where they are small."""
        size = self._global_batch
        steps = max(1, min(_PLANNED, self._order.kept) // size)
        epochs, rows = self._order.samples(self._first + self._step * size, steps * size)
        self._step += steps
        lengths = self._shards.lengths(rows).reshape(steps, size)
        dealt = arrange(lengths, self._world_size, self._micro_batch)[:, :, self._rank]
        own = (dealt + np.arange(steps)[:, None, None] * size).ravel()
        chosen = self._shards.select(rows[own])
        keys = self._masking.keys(epochs[own], chosen.rows)
        parts = [slice(start, start + self._micro_batch) for start in range(0, len(own), self._micro_batch)]
        builders = [self._builder(chosen[part], None if keys is None else keys[part]) for part in parts]
        a_step = len(builders) // steps
        self._planned.extend(builders[start : start + a_step] for start in range(0, len(builders), a_step))

    def _builder(self, chosen: Selection, keys: UInt64s | None) -> Callable[[], Batch]:
        def build() -> Batch:
            batch = make_batch(self._shards, chosen, keys, self._masking)
            return batch.pin_memory() if self._pin else batch

        return build


def validation_batches(
    shards: ShardSet, masking: Masking, *, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """A rank's part of the held-out rows: over all ranks each row once, with masks that never change.

    Ranks may get different numbers of batches, and the last batch may be smaller: sum over ranks, do not
    average.
    """
    rows = shards.kept
    order = rows[np.argsort(shards.lengths(rows), kind="stable")]
    for start in range(rank * batch_size, len(order), world_size * batch_size):
        chosen = shards.select(order[start : start + batch_size])
        yield make_batch(shards, chosen, masking.keys(FIXED_EPOCH, chosen.rows), masking)


def token_counts(shards: ShardSet) -> Int64s:
    """How often each token occurs in A and B before masking: ``[vocabulary]``."""
    counts = np.zeros(shards.vocabulary.size, dtype=np.int64)
    for shard in shards.shards:
        counts += np.bincount(shard.original_ids(), minlength=len(counts))
    return counts


def unigram_cross_entropy(train: ShardSet, validation: Iterable[Batch]) -> float:
    """Nats per token of the masked held-out tokens under the training text's token frequencies.

    Frequencies are add-one smoothed over the vocabulary. A model below this line uses context.

    Raises:
        ValueError: no token is masked.
    """
    counts = token_counts(train) + 1
    nats = -np.log(counts / counts.sum())
    labels = [batch.labels[batch.labels != NOT_SCORED].cpu().numpy() for batch in validation]
    targets = np.concatenate(labels) if labels else np.zeros(0, dtype=np.int64)
    if not len(targets):
        raise ValueError("no masked token to score")
    return float(nats[targets].mean())
