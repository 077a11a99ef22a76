"""Which sequences of a global batch go together into which packed micro-batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[Any]  # an array of any integer type
Int64s = NDArray[np.int64]

_ROUND = 4  # each round of the packing adds to one pack in this many: a larger number is slower and packs closer
_SHORTEST = 16  # of each pack's sequences so many, the shortest, are dealt in such rounds and make the packs even
_FEW = 32  # packs of at most so many sequences exchange some: larger ones are even without
_STEP = 16  # slots and predictions are a multiple of this, for tensor cores
_TAIL = 2  # slots for the tail of a pack that is nearly full
_DEVIATIONS = 6  # standard deviations of a pack's sequences and predictions that the limits leave to chance


@dataclass(frozen=True)
class PackLimits:
    """What a pack holds at most: the fixed shape of every packed micro-batch of a run.

    Attributes:
        tokens: the token budget, T.
        sequences: slots, S: of the sequences, and of the tail that they leave empty, in pieces of ``max_length``.
        predictions: masked tokens, P.
        max_length: tokens of the longest sequence.
        packs: into how many a global batch is spread where that many hold it; see `bertjobs.data.batches.budget`.
    """

    tokens: int
    sequences: int
    predictions: int
    max_length: int
    packs: int = 1

    def hold(self, tokens: Any, sequences: Any, predictions: Any) -> Any:
        """Whether a pack may have these numbers of tokens, sequences and predictions: bool, or bools of arrays."""
        slots = sequences + np.ceil((self.tokens - tokens) / self.max_length)
        return (tokens <= self.tokens) & (slots <= self.sequences) & (predictions <= self.predictions)


def limits_for(tokens: int, max_length: int, lengths: Ints, predictions: Ints) -> PackLimits:
    """Limits of which only the tokens fill up, for packs of sequences like these.

    They leave room for six standard deviations more sequences and predictions than a pack of randomly drawn
    sequences holds on average. Packs as `pack` makes them are more alike than that.

    Args:
        tokens: the token budget.
        lengths, predictions: ``[sequences]``, tokens and masked tokens of a sample of the data.

    Raises:
        ValueError: the budget does not hold the longest sequence.
    """
    if tokens < max_length:
        raise ValueError(f"a budget of {tokens} tokens cannot hold a sequence of {max_length}")
    mean, share = float(lengths.mean()), float(predictions.sum() / lengths.sum())
    drawn = tokens / mean
    room = _DEVIATIONS * math.sqrt(drawn)
    slots = max(drawn + room * float(lengths.std()) / mean, tokens / max_length) + _TAIL
    masked = max(share * tokens + room * float((predictions - share * lengths).std()), int(predictions.max()))
    return PackLimits(tokens, _rounded_up(slots, _STEP), _rounded_up(masked, _STEP), max_length)


def _rounded_up(number: float, step: int) -> int:
    return math.ceil(number / step) * step


def pack(lengths: Ints, predictions: Ints, limits: PackLimits) -> list[Int64s]:
    """Spread sequences over ``limits.packs`` packs, or as few more as hold them, all packs about equally full.

    Longest sequences first, each into the emptiest pack: Graham's LPT rule (SIAM J. Appl. Math. 17, 1969), here for
    a quarter of the packs at a time, and for all but the last 16 sequences of a pack in turns from the first pack to
    the last and back. More packs are the smallest number that the rule succeeds with, found by doubling and halving
    from the bound ceil(tokens / budget) on. No pack is empty. A pure function of the arguments.

    Args:
        lengths: ``[sequences]``, tokens of each.
        predictions: ``[sequences]``, masked tokens of each.

    Returns:
        The places of each pack's sequences, longest first.

    Raises:
        ValueError: a single sequence exceeds the limits, or is empty.
    """
    if not len(lengths):
        return []
    longest, shortest, masked = int(lengths.max()), int(lengths.min()), int(predictions.max())
    if shortest < 1 or longest > limits.max_length or not limits.hold(lengths, 1, predictions).all():
        raise ValueError(f"sequences of {shortest} to {longest} tokens, up to {masked} of them masked, exceed {limits}")
    order = np.argsort((limits.max_length - lengths).astype(np.uint16), kind="stable")  # a radix sort, for two bytes
    owners = _fewest(lengths[order], predictions[order], limits)
    sizes = np.bincount(owners)
    owners = owners.astype(np.min_scalar_type(len(sizes)))  # two bytes are sorted by radix
    return np.split(order[np.argsort(owners, kind="stable")], np.cumsum(sizes)[:-1])


def _fewest(lengths: Ints, predictions: Ints, limits: PackLimits) -> Int64s:
    """The pack of each sequence, ``[sequences]``, with ``limits.packs`` packs or as few more as the rule needs; lengths
    fall."""
    totals = np.array([lengths.sum(), len(lengths), predictions.sum()])
    bounds = np.ceil(totals / (limits.tokens, limits.sequences, limits.predictions)).astype(int).tolist()
    fails = max(min(limits.packs, len(lengths)), *bounds) - 1
    works, step = fails + 1, 1
    while (owners := _spread(lengths, predictions, limits, works)) is None:
        fails, works, step = works, works + step, 2 * step
    while works - fails > 1:
        middle = (fails + works) // 2
        fewer = _spread(lengths, predictions, limits, middle)
        if fewer is None:
            fails = middle
        else:
            works, owners = middle, fewer
    return owners


def _spread(lengths: Ints, predictions: Ints, limits: PackLimits, packs: int) -> Int64s | None:
    """The pack of each sequence, ``[sequences]``, or None if one exceeds the limits; lengths fall."""
    owners = dealt(lengths, packs)
    fills = (np.bincount(owners, weights, packs) for weights in (lengths, np.ones(len(lengths)), predictions))
    return owners if limits.hold(*fills).all() else None


def dealt(lengths: Ints, packs: int) -> Int64s:
    """The pack of each sequence by the rule of `pack`, ``[sequences]``; lengths fall.

    No two packs differ by more than the longest sequence.
    """
    owners = _dealt_in_turns(max(0, len(lengths) // packs - _SHORTEST), packs)
    start = len(owners)
    fullest = int(lengths.sum()) // packs + 2 * int(lengths[0])
    tokens = np.bincount(owners, lengths[:start], packs).astype(np.min_scalar_type(fullest))  # two bytes: see `pack`
    owners = np.concatenate([owners, np.empty(len(lengths) - start, dtype=np.int64)])
    per_round = max(1, packs // _ROUND)
    for first in range(start, len(owners), per_round):
        added = lengths[first : first + per_round]
        emptiest = np.argsort(tokens, kind="stable")[: len(added)]
        tokens[emptiest] += added.astype(tokens.dtype)
        owners[first : first + per_round] = emptiest
    return _exchanged(lengths, owners, packs)


def _exchanged(lengths: Ints, owners: Int64s, packs: int) -> Int64s:
    """The owners after the fullest pack and the emptiest, the second fullest and the second emptiest, and so on have
    each exchanged the two sequences that make them most alike."""
    sizes = np.bincount(owners, minlength=packs)
    most, half = int(sizes.max()), packs // 2
    if not half or most > _FEW:
        return owners
    order = np.argsort(owners, kind="stable")
    columns = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    members = np.full((packs, most), -1)
    members[owners[order], columns] = order
    held = np.where(members >= 0, lengths[members], 0)  # no sequence counts as one of length 0
    by_fill = np.argsort(held.sum(1), kind="stable")
    empty, full = by_fill[:half], by_fill[::-1][:half]
    wanted = (held[full].sum(1) - held[empty].sum(1)) / 2
    miss = np.abs(held[full][:, :, None] - held[empty][:, None, :] - wanted[:, None, None]).reshape(half, -1)
    best = miss.argmin(1)
    better = miss[np.arange(half), best] < wanted
    given = members[full, best // most][better], members[empty, best % most][better]
    exchanged = owners.copy()
    for sequences, receivers in zip(given, (empty[better], full[better]), strict=True):
        exchanged[sequences[sequences >= 0]] = receivers[sequences >= 0]
    return exchanged


def _dealt_in_turns(each: int, packs: int) -> Int64s:
    """The packs of the first sequences, ``[each * packs]``: 0 to the last, then the last to 0, and so on.

    The differences between two packs in the one direction and in the other are of opposite signs. All together they
    are at most that of the longest and the shortest sequence, since lengths fall.
    """
    turns = np.tile(np.arange(packs), (each, 1))
    turns[1::2] = turns[1::2, ::-1]
    return turns.reshape(-1)
