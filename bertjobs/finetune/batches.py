"""Rows of a prepared task as packs: a step's global batch is a pure function of (data, seed, step), cut by rank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bertjobs.data.batches.order import SampleOrder, StreamState
from bertjobs.data.batches.packing import PackLimits, pack
from bertjobs.data.ragged import offsets_of
from bertjobs.tasks.prepared import TaskSplit
from bertjobs.tasks.rows import NOT_SCORED, Head

Int64s = NDArray[np.int64]


class Rows(Protocol):
    """Rows that packs are made of, as `bertjobs.tasks.prepared.TaskSplit` has them."""

    @property
    def rows(self) -> int: ...
    @property
    def lengths(self) -> NDArray[Any]: ...
    @property
    def seconds(self) -> NDArray[Any]: ...
    @property
    def read_counts(self) -> NDArray[Any]: ...
    def ids(self, rows: NDArray[Any]) -> NDArray[Any]: ...
    def targets(self, rows: NDArray[Any]) -> NDArray[Any]: ...
    def read(self, rows: NDArray[Any]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class TaskBatch:
    """Sequences one after the other, without padding.

    Attributes:
        input_ids, token_type_ids, positions: int64 ``[T]``.
        cumulative_lengths: int32 ``[S + 1]``, from 0: where each sequence ends.
        read: int64 ``[R]``, ascending: the places whose outputs are read.
        targets: float32, as in `bertjobs.tasks.rows.Row`, sequence after sequence; empty without labels.
        lengths: int64 ``[S]``, tokens of each sequence; numpy, on the host.
        max_length: the longest of them.
        scored: how many sequences, or for a head of kind "token" labelled tokens, count in the loss.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    positions: Tensor
    cumulative_lengths: Tensor
    read: Tensor
    targets: Tensor
    lengths: Int64s
    max_length: int
    scored: int

    @property
    def sequences(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device, non_blocking: bool = False) -> TaskBatch:
        """The same batch on a device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: value.to(device, non_blocking=non_blocking) for name, value in tensors.items()}
        return replace(self, **moved)

    def filled(self, multiple: int) -> TaskBatch:
        """With tokens of no sequence at the end, which nothing reads, up to a multiple of ``multiple``."""
        more = -len(self.input_ids) % multiple
        tokens = (self.input_ids, self.token_type_ids, self.positions)
        ids, types, positions = (F.pad(one, (0, more)) for one in tokens)
        return replace(self, input_ids=ids, token_type_ids=types, positions=positions)


def make_batch(split: Rows, rows: Int64s, head: Head) -> TaskBatch:
    """Some rows of a split as one pack, in this order."""
    lengths = split.lengths[rows].astype(np.int64)
    offsets = offsets_of(lengths)
    starts = np.repeat(offsets[:-1], lengths)
    positions = np.arange(offsets[-1]) - starts
    targets = split.targets(rows)
    if head.kind == "sequence":
        read = offsets[:-1]
    elif head.kind == "span":
        read = np.arange(offsets[-1])
    else:
        read = np.repeat(offsets[:-1], split.read_counts[rows]) + split.read(rows)
    return TaskBatch(
        input_ids=torch.from_numpy(split.ids(rows).astype(np.int64)),
        token_type_ids=torch.from_numpy((positions >= np.repeat(split.seconds[rows], lengths)).astype(np.int64)),
        positions=torch.from_numpy(positions),
        cumulative_lengths=torch.from_numpy(offsets.astype(np.int32)),
        read=torch.from_numpy(read.astype(np.int64)),
        targets=torch.from_numpy(np.array(targets, dtype=np.float32)),
        lengths=lengths,
        max_length=int(lengths.max(initial=0)),
        scored=int((targets != NOT_SCORED).sum()) if head.kind == "token" else len(rows),
    )


def packs_of(lengths: Int64s, budget: int, world_size: int) -> list[Int64s]:
    """Cut a global batch into packs of at most ``budget`` tokens: as few per rank as hold it.

    Args:
        lengths: ``[sequences]``, tokens of each.
        budget: tokens in a pack, at least the longest sequence's.

    Returns:
        The places in the batch of each pack's sequences; a multiple of ``world_size`` packs if there are so many
        sequences.
    """
    roomy = len(lengths) + budget  # neither sequences nor predictions are limited
    limits = PackLimits(budget, roomy, roomy, int(lengths.max()))
    per_rank = max(1, math.ceil(int(lengths.sum()) / budget / world_size))
    while True:
        packs = pack(lengths, np.ones_like(lengths), replace(limits, packs=per_rank * world_size))
        if len(packs) <= per_rank * world_size:
            return packs
        per_rank = math.ceil(len(packs) / world_size)


class TaskBatches:
    """One rank's packs, step after step.

    Args:
        global_batch: rows per step, over all ranks.
        budget: the most tokens in a pack.
        start: steps done before.
        sha256: of the data, for checkpoints.
    """

    def __init__(
        self,
        split: TaskSplit,
        head: Head,
        *,
        seed: int,
        global_batch: int,
        budget: int,
        rank: int,
        world_size: int,
        start: int,
        sha256: str,
    ) -> None:
        self._split, self._head, self._seed = split, head, seed
        self._global_batch, self._budget, self._rank, self._world_size = global_batch, budget, rank, world_size
        self._order, self._step, self._sha256 = SampleOrder(split.rows, seed), start, sha256

    def __next__(self) -> Sequence[TaskBatch]:
        rows = self._rows(self._step)
        self._step += 1
        packs = packs_of(self._split.lengths[rows].astype(np.int64), self._budget, self._world_size)
        rounds = math.ceil(len(packs) / self._world_size)
        mine = packs[self._rank :: self._world_size]
        mine += [np.zeros(0, dtype=np.int64)] * (rounds - len(mine))
        return [make_batch(self._split, rows[places], self._head) for places in mine]

    def deal(self, step: int, seconds: Sequence[float], gain: float) -> None:
        """As in `Batches`: a task's packs are made for equally many per rank."""

    def state(self, step: int) -> StreamState:
        epoch, place = self._order.place(step * self._global_batch)
        return StreamState(epoch, place, step, self._seed, self._sha256)

    def samples(self, step: int) -> list[str]:
        return [f"training row {row}" for row in self._rows(step)]

    def _rows(self, step: int) -> Int64s:
        return self._order.samples(step * self._global_batch, self._global_batch)[1]


def evaluation_packs(lengths: Int64s, budget: int, rank: int = 0, world_size: int = 1) -> Iterator[Int64s]:
    """All rows in packs of at most ``budget`` tokens, rows of like length together; this rank's share of them."""
    order = np.argsort(lengths, kind="stable")[::-1]
    totals, first, packs = np.cumsum(lengths[order], dtype=np.int64), 0, []
    while first < len(order):
        before = totals[first - 1] if first else 0
        last = int(np.searchsorted(totals, before + budget, side="right"))
        packs.append(order[first : max(last, first + 1)])
        first += len(packs[-1])
    yield from packs[rank::world_size]
