"""The batch arithmetic: global batch = rank batch x ranks, rank batch = micro-batch x gradient steps.

Nothing is rounded: if a division leaves a remainder, the error names the nearest choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from bertjobs.errors import InputError
from bertjobs.wording import counted


@dataclass(frozen=True)
class BatchSizes:
    """How one optimizer step is cut up; all but ``gradient_steps`` in sequences.

    ``global_batch == rank_batch * world_size`` and ``rank_batch == micro_batch * gradient_steps``.
    """

    global_batch: int
    rank_batch: int
    micro_batch: int
    gradient_steps: int


def divide(
    global_batch: int,
    world_size: int,
    micro_batch_limit: int,
    rank_batch: int | None = None,
    gradient_steps: int | None = None,
    *,
    tasks_per_node: int = 1,
    where: str | None = None,
) -> BatchSizes:
    """Cut the global batch over the ranks and each rank's part into micro-batches, exactly.

    Args:
        global_batch: sequences per optimizer step; ignored if ``rank_batch`` is given.
        world_size: ranks.
        micro_batch_limit: the largest micro-batch that fits; ``gradient_steps`` overrides it.
        rank_batch: NVIDIA's BATCHSIZE, which sets the global batch to ``rank_batch * world_size``.
        gradient_steps: NVIDIA's GRADIENT_STEPS; by default as few as the limit allows.
        tasks_per_node: ranks per node, so that errors can name node counts; 0 where nodes differ.
        where: the place that errors name.

    Raises:
        InputError: a size below 1, or a division with a remainder.
    """
    given = {
        "global batch": global_batch,
        "world size": world_size,
        "micro-batch limit": micro_batch_limit,
        "BATCHSIZE": rank_batch,
        "GRADIENT_STEPS": gradient_steps,
    }
    for name, size in given.items():
        if size is not None and size < 1:
            raise InputError(f"{name} must be at least 1, not {size}", where=where)
    if rank_batch is None:
        if global_batch % world_size:
            raise _indivisible_global_batch(global_batch, world_size, tasks_per_node, where)
        rank_batch = global_batch // world_size
    if gradient_steps is None:
        gradient_steps = rank_batch // largest_micro_batch(rank_batch, micro_batch_limit)
    elif rank_batch % gradient_steps:
        choices = _either(nearest_divisors(rank_batch, gradient_steps))
        raise InputError(
            f"BATCHSIZE {rank_batch} is not divisible by GRADIENT_STEPS {gradient_steps}",
            where=where,
            hint=f"nearest GRADIENT_STEPS that divide it: {choices}",
        )
    return BatchSizes(rank_batch * world_size, rank_batch, rank_batch // gradient_steps, gradient_steps)


def largest_micro_batch(rank_batch: int, limit: int) -> int:
    """The largest divisor of the rank batch up to the limit."""
    return next(n for n in range(min(limit, rank_batch), 0, -1) if rank_batch % n == 0)


def nearest_divisors(number: int, target: int) -> tuple[int, ...]:
    """The divisors of ``number`` nearest to ``target``: the largest up to it, and the smallest at or above it."""
    small = [n for n in range(1, isqrt(number) + 1) if number % n == 0]
    divisors = {*small, *(number // n for n in small)}
    below = max((n for n in divisors if n <= target), default=None)
    above = min((n for n in divisors if n >= target), default=None)
    return tuple(dict.fromkeys(n for n in (below, above) if n is not None))


def _indivisible_global_batch(global_batch: int, world_size: int, tasks_per_node: int, where: str | None) -> InputError:
    below = global_batch // world_size * world_size
    batches = tuple(n for n in (below, below + world_size) if n)
    words = ""
    if tasks_per_node:
        nodes = world_size // tasks_per_node
        words = f" ({counted(nodes, 'node')} x {counted(tasks_per_node, 'task')})"
    if tasks_per_node and global_batch % tasks_per_node == 0:
        choices = _either(nearest_divisors(global_batch // tasks_per_node, nodes))
        sizes = f"nearest node counts that divide it, with {tasks_per_node} tasks per node: {choices}"
    else:
        choices = _either(nearest_divisors(global_batch, world_size))
        sizes = f"nearest world sizes that divide it: {choices}"
    return InputError(
        f"a global batch of {global_batch} cannot be divided over {world_size} ranks{words}",
        where=where,
        hint=f"{sizes}; nearest global batches for {world_size} ranks: {_either(batches)}",
    )


def _either(numbers: tuple[int, ...]) -> str:
    return " or ".join(map(str, numbers))
