"""Sequences to batches of tensors, built ahead of the training step by background threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertjobs.data.masking import mask_tokens, prediction_counts, sample_keys
from bertjobs.data.ragged import gather
from bertjobs.data.sequences import Sequences, lay_out
from bertjobs.data.shard_set import ShardSet, StoredMasks
from bertjobs.data.shards import FIXED_EPOCH
from bertjobs.data.stream import global_batch, rank_micro_batches

Int64s = NDArray[np.int64]

NOT_SCORED = -1
MASKED_SHARE = 0.15


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


def make_batch(
    shards: ShardSet,
    indices: Int64s,
    epochs: Int64s | int,
    seed: int,
    max_predictions: int,
    masking: str,
    ratio: float = MASKED_SHARE,
) -> Batch:
    """Lay rows out, mask them and pad them to a multiple of 8.

    Args:
        indices: ``[sequences]``, rows of ``shards``.
        epochs: the epoch of each sequence, for the draws of dynamic masking.
        max_predictions, ratio: of dynamic masking; see ``masking.prediction_counts``.
        masking: "dynamic" (drawn from seed, epoch and row) or "static" (as stored).

    Raises:
        ValueError: the masking is not the one that the shards were made for.
    """
    vocabulary = shards.vocabulary
    starts = shards.offsets[indices]
    num_tokens = shards.offsets[indices + 1] - starts + 3
    rows = lay_out(shards.ids, starts, shards.a_lengths[indices], num_tokens, vocabulary)
    if (masking == "static") != (shards.masks is not None):
        raise ValueError(f"shards {'without' if shards.masks is None else 'with'} masks, masking {masking!r}")
    if shards.masks is not None:
        input_ids, labels = rows.input_ids, _stored_labels(rows, shards.masks, indices)
    else:
        counts = prediction_counts(num_tokens, ratio, max_predictions)
        keys = sample_keys(seed, epochs, indices)
        input_ids, chosen = mask_tokens(rows.input_ids, rows.text, counts, keys, vocabulary.mask_id, vocabulary.size)
        labels = np.where(chosen, rows.input_ids, NOT_SCORED)
    arrays = (input_ids, rows.second, rows.real, labels, shards.is_random_next[indices])
    return Batch(*(torch.from_numpy(array.astype(np.int64)) for array in arrays))


def _stored_labels(rows: Sequences, masks: StoredMasks, indices: Int64s) -> Int64s:
    starts = masks.offsets[indices]
    counts = masks.offsets[indices + 1] - starts
    labels = np.full(rows.input_ids.shape, NOT_SCORED, dtype=np.int64)
    owners = np.repeat(np.arange(len(indices)), counts)
    labels[owners, gather(masks.positions, starts, counts)] = gather(masks.labels, starts, counts)
    return labels


class BatchStream:
    """One rank's micro-batches, optimizer step after optimizer step, without end.

    Iterating gives a list of ``Batch`` a step. What a step holds is a pure function of (seed, step); the
    threads only build it earlier. Close it, or use it in ``with``.

    Args:
        global_batch: sequences a step over all ranks, a multiple of ``world_size * micro_batch``.
        micro_batch: sequences in one batch.
        start_step: the step to begin with, from 0.
        num_workers: threads that build batches ahead, up to the next step; 0 builds them when asked.
    """

    def __init__(
        self,
        shards: ShardSet,
        *,
        seed: int,
        global_batch: int,
        micro_batch: int,
        max_predictions: int,
        masking: str,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        num_workers: int = 0,
    ) -> None:
        self._shards = shards
        self._seed, self._masking, self._max_predictions = seed, masking, max_predictions
        self._global_batch, self._micro_batch = global_batch, micro_batch
        self._rank, self._world_size = rank, world_size
        self._num_tokens = shards.num_tokens
        self._step = start_step
        self._pool = ThreadPoolExecutor(num_workers, "batches") if num_workers else None
        self._ahead: deque[list[Future[Batch]]] = deque()

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
        epochs, samples = global_batch(self._shards.rows, self._seed, self._step, self._global_batch)
        self._step += 1
        places = rank_micro_batches(self._num_tokens[samples], self._rank, self._world_size, self._micro_batch)
        return [self._builder(samples[chosen], epochs[chosen]) for chosen in places]

    def _builder(self, samples: Int64s, epochs: Int64s) -> Callable[[], Batch]:
        return lambda: make_batch(
            self._shards,
            samples,
            epochs,
            self._seed,
            self._max_predictions,
            self._masking,
        )


def validation_batches(
    shards: ShardSet,
    *,
    seed: int,
    batch_size: int,
    max_predictions: int,
    masking: str,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """A rank's part of the held-out rows: over all ranks each row once, with masks that never change.

    Ranks may get different numbers of batches, and the last batch may be smaller: sum over ranks, do not
    average.
    """
    order = np.argsort(shards.num_tokens, kind="stable")
    for start in range(rank * batch_size, len(order), world_size * batch_size):
        rows = order[start : start + batch_size]
        yield make_batch(shards, rows, FIXED_EPOCH, seed, max_predictions, masking)


def token_counts(shards: ShardSet) -> Int64s:
    """How often each token occurs in A and B before masking: ``[vocabulary]``."""
    vocabulary_size = shards.vocabulary.size
    counts = np.bincount(shards.ids, minlength=vocabulary_size)
    if shards.masks is not None:
        masks = shards.masks
        rows = np.repeat(np.arange(shards.rows), np.diff(masks.offsets))
        places = masks.positions.astype(np.int64)
        places += shards.offsets[rows] - 1 - (places > shards.a_lengths[rows])
        counts += np.bincount(masks.labels, minlength=vocabulary_size)
        counts -= np.bincount(shards.ids[places], minlength=vocabulary_size)
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
