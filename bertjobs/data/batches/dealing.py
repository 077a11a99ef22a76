"""Which packs of a global batch each rank computes."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def in_turns(packs: int, ranks: int) -> list[list[int]]:
    """The numbers of each rank's packs where all ranks get equally many: pack k is of rank ``k % ranks``.

    Where their number is not a multiple of the ranks, the last ranks get one more number, for a pack that is empty.
    """
    return [list(range(rank, packs + -packs % ranks, ranks)) for rank in range(ranks)]


def by_speed(packs: int, seconds: Sequence[float]) -> list[list[int]]:
    """The numbers of each rank's packs where the slowest rank is done as early as possible, ascending.

    Each pack goes to the rank that is done with it first, which is optimal for packs that are alike. A rank that gets
    none, since all others are done sooner, has one number more, for a pack that is empty: gradients travel with the
    last pack of each rank.

    Args:
        seconds: per pack, by rank; all above 0.
    """
    dealt: list[list[int]] = [[] for _ in seconds]
    done = [(each, rank) for rank, each in enumerate(seconds)]
    heapq.heapify(done)
    for number in range(packs):
        moment, rank = done[0]
        dealt[rank].append(number)
        heapq.heapreplace(done, (moment + seconds[rank], rank))
    empty = iter(range(packs, packs + len(seconds)))
    return [numbers or [next(empty)] for numbers in dealt]


def step_seconds(dealt: Sequence[Sequence[int]], seconds: Sequence[float]) -> float:
    """How long the slowest rank computes."""
    return max(len(numbers) * each for numbers, each in zip(dealt, seconds, strict=True))
