"""Optimizer states spread over ranks: ZeRO-1 (Rajbhandari et al., arXiv 1910.02054)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

MESSAGE_ELEMENTS = 1 << 25
"""Elements of one broadcast: 128 MB of float32, so that the flat copy is small next to the memory saved."""


def spread(sizes: Sequence[int], parts: int) -> list[int]:
    """The part, from 0, that each item goes to, such that the parts are about equally large.

    Largest first, each to the part that holds least so far (Graham's LPT rule): no part is more than a third
    above the best possible. Equal inputs give equal parts; ties go to the lower number.

    Raises:
        ValueError: ``parts`` is below 1.
    """
    if parts < 1:
        raise ValueError(f"cannot spread over {parts} parts")
    loads = [(0, part) for part in range(parts)]
    dealt = [0] * len(sizes)
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        load, part = loads[0]
        dealt[item] = part
        heapq.heapreplace(loads, (load + sizes[item], part))
    return dealt


@dataclass(frozen=True)
class StateShare:
    """One rank's share of the optimizer states; the default is all of them, with nothing communicated.

    Attributes:
        rank: this rank in ``group``.
        size: ranks in ``group``.
        group: what parameters travel over; None: torch's default group.
    """

    rank: int = 0
    size: int = 1
    group: distributed.ProcessGroup | None = None

    def exchange(self, tensors: Sequence[Tensor], owners: Sequence[int]) -> None:
        """Overwrite each tensor, on all ranks, with the values that its owner has.

        All ranks call this with tensors of the same shapes, one type and device, and the same ``owners``.
        """
        if self.size == 1:
            return
        for owner in range(self.size):
            owned = [tensor for tensor, rank in zip(tensors, owners, strict=True) if rank == owner]
            for run in runs(owned, MESSAGE_ELEMENTS):
                self._broadcast(run, owner)

    def _broadcast(self, tensors: list[Tensor], owner: int) -> None:
        sizes = [tensor.numel() for tensor in tensors]
        if owner == self.rank:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        else:
            flat = tensors[0].new_empty(sum(sizes))
        distributed.broadcast(flat, group=self.group, group_src=owner)
        if owner != self.rank:
            received = [part.view_as(tensor) for part, tensor in zip(flat.split(sizes), tensors, strict=True)]
            torch._foreach_copy_(tensors, received)


WHOLE = StateShare()
"""All states on each rank."""


def runs(tensors: Sequence[Tensor], elements: int) -> Iterator[list[Tensor]]:
    """Cut a list of tensors into runs of at most ``elements`` elements, or of one larger tensor."""
    run: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if run and held + tensor.numel() > elements:
            yield run
            run, held = [], 0
        run.append(tensor)
        held += tensor.numel()
    if run:
        yield run
