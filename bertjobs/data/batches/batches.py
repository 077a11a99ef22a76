"""Sequences to batches of tensors, built ahead of the training step by background threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from bertjobs.data.batches.dealing import by_speed, in_turns, step_seconds
from bertjobs.data.batches.masked_text import (
    NOT_SCORED,
    Int64s,
    MaskedText,
    Masking,
    UInt64s,
    int64_tensor,
    masked_text,
)
from bertjobs.data.batches.order import SampleOrder, StreamState, arrange
from bertjobs.data.batches.packed_batches import PackedBatch, make_packed_batch
from bertjobs.data.batches.packing import PackLimits, pack
from bertjobs.data.batches.sequences import Layout
from bertjobs.data.shards.lddl_columns import FIXED_EPOCH
from bertjobs.data.shards.shard_set import SelectedRows, ShardSet

_PLANNED = 4096  # sequences whose order and places are looked up at a time, of one epoch


@dataclass(frozen=True)
class Batch:
    """A micro-batch; all int64, on one device.

    Attributes:
        input_ids: ``[sequences, length]``, the length a multiple of 8; padding is [PAD].
        token_type_ids: 1 on B and its [SEP], 0 elsewhere.
        attention_mask: 1 on tokens, 0 on padding.
        labels: the original id where a token is masked, -1 (not scored) elsewhere.
        next_sentence_labels: ``[sequences]``, 1 where B is a random segment; 0 where there is no B.
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
        """The same batch in page-locked memory, which a GPU reads while the CPU continues."""
        return Batch(*(tensor.pin_memory() for tensor in self.tensors()))


MicroBatch = Batch | PackedBatch
Builders = list[Callable[[], MicroBatch]]
"""One rank's micro-batches of a step, to be built."""
Plan = list[Builders]
"""Those of some steps."""
Dealt = list[tuple[int, Int64s]]
"""The micro-batches of one rank in a step: the number of each over all ranks, and the places of its sequences."""
_NOTHING = np.zeros(0, dtype=np.int64)


def make_batch(shards: ShardSet, chosen: SelectedRows, keys: UInt64s | None, masking: Masking) -> Batch:
    """Lay rows out, mask them and pad them to a multiple of 8.

    Args:
        chosen: rows of ``shards``.
        keys: of each sequence's draws, for dynamic masking; see ``masking.sample_keys``.

    Raises:
        ValueError: the masking is not the one that the shards were made for.
        InputError: a shard is damaged; names it.
    """
    layout = Layout.padded(chosen.a_lengths, chosen.lengths)
    text = masked_text(shards, chosen, keys, masking, layout.offsets)
    second, real = layout.segments_of_padded()
    return Batch(
        int64_tensor(layout.input_ids(text.ids, shards.vocabulary).reshape(real.shape)),
        int64_tensor(second),
        int64_tensor(real),
        int64_tensor(_labels(layout, text).reshape(real.shape)),
        int64_tensor(chosen.is_random_next),
    )


def _labels(layout: Layout, text: MaskedText) -> Int64s:
    labels = np.full(layout.row_starts[-1], NOT_SCORED, dtype=np.int64)
    labels[layout.text[text.scored]] = text.labels
    return labels


class BatchStream:
    """One rank's micro-batches, optimizer step after optimizer step, without end.

    Iterating gives a list of ``Batch`` per step, or of ``PackedBatch`` with ``packing``: the same sequences with the
    same masks. What a step holds is a pure function of (seed, step); the threads only build it earlier. Close it, or
    use it in ``with``.

    The packs of a global batch do not depend on the ranks: pack k is micro-step ``k // world_size`` of rank
    ``k % world_size``, unless `deal` gives fast ranks more of them. Where their number is not a multiple of the ranks,
    the last ranks' last packs are all tail.

    Args:
        global_batch: sequences per step over all ranks; without ``packing`` a multiple of ``world_size * micro_batch``.
        micro_batch: sequences in one padded batch.
        packing: limits of packed micro-batches; None pads.
        start: where to begin, the very beginning if None. Where it was written with other shards skipped, the
            stream continues at its place in the epoch's order: no row is read a second time.
        num_workers: threads that plan and build ahead: batches up to the next step, plans for one step more, or for
            some if steps are small. 0 does it when asked.
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
        packing: PackLimits | None = None,
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
        self.packing = packing
        self._rank, self._world_size = rank, world_size
        self._pin = pin_memory
        self._manifest_sha256, self._skipped = manifest_sha256, skipped
        self._order = SampleOrder(shards.rows, masking.seed, shards.left_out)
        start = start or StreamState(0, 0, 0, masking.seed, manifest_sha256)
        self._first = self._order.number(start.epoch, start.place) - start.step * global_batch
        self._step = start.step  # the first that no plan has been begun for
        self._pool = ThreadPoolExecutor(num_workers, "batches") if num_workers else None
        self._plan_ahead: Future[Plan] | None = None
        self._planned: deque[Builders] = deque()
        self._ahead: deque[list[Future[MicroBatch]]] = deque()
        self._seconds: tuple[float, ...] = ()  # per pack, by rank; () where all ranks take turns

    def state(self, step: int) -> StreamState:
        """Where the stream stands once ``step`` global batches have been read, whatever is built ahead."""
        epoch, place = self._order.place(self._first + step * self._global_batch)
        return StreamState(epoch, place, step, self._masking.seed, self._manifest_sha256, self._skipped)

    def deal(self, step: int, seconds: Sequence[float], gain: float) -> tuple[int, ...] | None:
        """Deal the packs by speed, from ``step`` on, if that shortens a step by the share ``gain`` at least. All ranks
        call it with the same arguments.

        Args:
            step: the next that will be read: what was built ahead is built anew.
            seconds: per pack, by rank.

        Returns:
            The packs of each rank in that step; None if nothing was changed.
        """
        if self.packing is None:
            raise ValueError("only packs can be dealt by speed")
        rows = self._order.samples(self._first + step * self._global_batch, self._global_batch)[1]
        packs = len(next(self._packs(rows, self.packing)))
        before = by_speed(packs, self._seconds) if self._seconds else in_turns(packs, self._world_size)
        after = by_speed(packs, seconds)
        if step_seconds(after, seconds) > (1 - gain) * step_seconds(before, seconds):
            return None
        for future in [self._plan_ahead, *(future for built in self._ahead for future in built)]:
            if future is not None:
                future.cancel()
        self._plan_ahead = None
        self._planned.clear()
        self._ahead.clear()
        self._step, self._seconds = step, tuple(seconds)
        return tuple(len([number for number in numbers if number < packs]) for numbers in after)

    def samples(self, step: int) -> list[str]:
        """The sequences of a global batch, over all ranks, as ``shard's file name:row``."""
        rows = self._order.samples(self._first + step * self._global_batch, self._global_batch)[1]
        return self._shards.names(rows)

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        return self

    def __next__(self) -> list[MicroBatch]:
        if self._pool is None:
            if not self._planned:
                self._planned.extend(self._next_plan()())
            return [build() for build in self._planned.popleft()]
        while len(self._ahead) < 2:
            self._ahead.append([self._pool.submit(build) for build in self._next_builders(self._pool)])
        return [future.result() for future in self._ahead.popleft()]

    def close(self) -> None:
        """Stop the threads; what was planned and built ahead is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next_builders(self, pool: ThreadPoolExecutor) -> Builders:
        """The next step's. The plan after it is begun before its batches are, so it is there once they are."""
        if not self._planned:
            plan = self._plan_ahead or pool.submit(self._next_plan())
            self._plan_ahead = pool.submit(self._next_plan())
            self._planned.extend(plan.result())
        return self._planned.popleft()

    def _next_plan(self) -> Callable[[], Plan]:
        """Decides what the next steps hold: many at once where they are small."""
        first, steps = self._step, max(1, min(_PLANNED, self._order.kept) // self._global_batch)
        self._step += steps
        return partial(self._plan, first, steps, self._seconds)

    def _plan(self, first: int, steps: int, seconds: tuple[float, ...]) -> Plan:
        size = self._global_batch
        epochs, rows = self._order.samples(self._first + first * size, steps * size)
        dealt = self._padded(rows) if self.packing is None else self._packed(rows, self.packing, seconds)
        own = np.concatenate([part for step in dealt for _, part in step])
        chosen = self._shards.select(rows[own])
        keys = self._masking.keys(epochs[own], chosen.rows)
        plan, start = [], 0
        for step in dealt:
            builders = []
            for number, part in step:
                piece = slice(start, start := start + len(part))
                builders.append(self._builder(number, chosen[piece], None if keys is None else keys[piece]))
            plan.append(builders)
        return plan

    def _padded(self, rows: Int64s) -> list[Dealt]:
        """The places in ``rows`` of this rank's padded micro-batches, step by step."""
        lengths = self._shards.lengths(rows).reshape(-1, self._global_batch)
        dealt = arrange(lengths, self._world_size, self._micro_batch)[:, :, self._rank]
        dealt += np.arange(0, len(rows), self._global_batch)[:, None, None]
        return [[(index * self._world_size + self._rank, part) for index, part in enumerate(step)] for step in dealt]

    def _packed(self, rows: Int64s, limits: PackLimits, seconds: tuple[float, ...]) -> list[Dealt]:
        """The places in ``rows`` of this rank's packs, step by step; none for a pack that is all tail."""
        dealt = []
        for packs in self._packs(rows, limits):
            numbers = by_speed(len(packs), seconds) if seconds else in_turns(len(packs), self._world_size)
            own = numbers[self._rank]
            dealt.append([(number, packs[number] if number < len(packs) else _NOTHING) for number in own])
        return dealt

    def _packs(self, rows: Int64s, limits: PackLimits) -> Iterator[list[Int64s]]:
        """The places in ``rows`` of the packs of all ranks, step by step."""
        shards, masking = self._shards, self._masking
        lengths = shards.num_tokens(rows)
        if lengths.min() <= shards.specials or lengths.max() > limits.max_length:
            shards.select(rows)  # raises, and names the shard
        if masking.kind == "dynamic":
            predictions = masking.counts(lengths, shards.specials)
        else:
            predictions = masking.predictions(shards, rows)
        for start in range(0, len(rows), self._global_batch):
            step = slice(start, start + self._global_batch)
            yield [start + places for places in pack(lengths[step], predictions[step], limits)]

    def _builder(self, number: int, chosen: SelectedRows, keys: UInt64s | None) -> Callable[[], MicroBatch]:
        def build() -> MicroBatch:
            batch: MicroBatch
            if self.packing is None:
                batch = make_batch(self._shards, chosen, keys, self._masking)
            else:
                packed = make_packed_batch(self._shards, chosen, keys, self._masking, self.packing)
                batch = replace(packed, number=number)
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


def token_counts(
    shards: ShardSet, *, rank: int = 0, world_size: int = 1, progress: Callable[[], None] = lambda: None
) -> Int64s:
    """How often each token of text occurs before masking: ``[vocabulary]``; of a rank's part of the shards, which over
    all ranks are each shard once.

    ``progress`` is called after each shard.
    """
    counts = np.zeros(shards.vocabulary.size, dtype=np.int64)
    for shard in shards.shards[rank::world_size]:
        counts += np.bincount(shard.original_ids(), minlength=len(counts))
        progress()
    if not shards.pairs:
        counts[shards.vocabulary.sep_id] = 0  # it stands between documents
    return counts


def target_counts(batch: Batch, vocabulary_size: int) -> Int64s:
    """How often each token is to be predicted in a batch on the host: ``[vocabulary]``."""
    labels = batch.labels[batch.labels != NOT_SCORED].numpy()
    return np.bincount(labels, minlength=vocabulary_size)


def unigram_cross_entropy(train: Int64s, targets: Int64s) -> float:
    """Nats per token of the masked held-out tokens under the training text's token frequencies.

    Frequencies are add-one smoothed over the vocabulary. A model below this line uses context.

    Args:
        train: `token_counts` of the training text.
        targets: sum of `target_counts` over the held-out batches.

    Raises:
        ValueError: no token is masked.
    """
    if not targets.sum():
        raise ValueError("no masked token to score")
    counts = train + 1
    nats = -np.log(counts / counts.sum())
    return float((nats * targets).sum() / targets.sum())
