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
_STEP = 16  # slots and predictions are a multiple of this, for tensor cores
_TAIL = 2  # slots for the tail of a pack that is nearly full
_DEVIATIONS = 6  # standard deviations of a pack's sequences and predictions that the limits leave to chance


@dataclass(frozen=True)
class Limits:
    """What a pack holds at most: the fixed shape of every packed micro-batch of a run.

    Attributes:
        tokens: the token budget, T.
        sequences: slots, S: of the sequences, and of the tail that they leave empty, in pieces of ``max_length``.
        predictions: masked tokens, P.
        max_length: tokens of the longest sequence.
    """

    tokens: int
    sequences: int
    predictions: int
    max_length: int

    def hold(self, tokens: Any, sequences: Any, predictions: Any) -> Any:
        """Whether a pack may have these numbers of tokens, sequences and predictions: bool, or bools of arrays."""
        slots = sequences + np.ceil((self.tokens - tokens) / self.max_length)
        return (tokens <= self.tokens) & (slots <= self.sequences) & (predictions <= self.predictions)


def limits_for(tokens: int, max_length: int, lengths: Ints, predictions: Ints) -> Limits:
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
    return Limits(tokens, _rounded_up(slots, _STEP), _rounded_up(masked, _STEP), max_length)


def _rounded_up(number: float, step: int) -> int:
    return math.ceil(number / step) * step


def pack(lengths: Ints, predictions: Ints, limits: Limits) -> list[Int64s]:
    """Spread sequences over as few packs as hold them, all packs about equally full.

    Longest sequences first, each into the emptiest pack: Graham's LPT rule (SIAM J. Appl. Math. 17, 1969), here for
    a quarter of the packs at a time. The number of packs is the smallest that the rule succeeds with, found by
    doubling and halving from the bound ceil(tokens / budget) on. A pure function of the arguments.

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
    ends = np.cumsum(np.bincount(owners))
    return np.split(order[np.argsort(owners, kind="stable")], ends[:-1])


def _fewest(lengths: Ints, predictions: Ints, limits: Limits) -> Int64s:
    """The pack of each sequence, ``[sequences]``, with as few packs as the rule needs; lengths fall."""
    totals = np.array([lengths.sum(), len(lengths), predictions.sum()])
    fails = max(1, *np.ceil(totals / (limits.tokens, limits.sequences, limits.predictions)).astype(int).tolist()) - 1
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


def _spread(lengths: Ints, predictions: Ints, limits: Limits, packs: int) -> Int64s | None:
    """The pack of each sequence, ``[sequences]``, or None if one exceeds the limits; lengths fall."""
    owners = _dealt(lengths, packs)
    fills = (np.bincount(owners, weights, packs) for weights in (lengths, np.ones(len(lengths)), predictions))
    return owners if limits.hold(*fills).all() else None


def _dealt(lengths: Ints, packs: int) -> Int64s:
    """The pack of each sequence by the rule, ``[sequences]``; lengths fall.

    No two packs differ by more than the longest sequence.
    """
    fullest = int(lengths.sum()) // packs + 2 * int(lengths[0])
    tokens = np.zeros(packs, dtype=np.min_scalar_type(fullest))  # two bytes are sorted by radix
    owners = np.empty(len(lengths), dtype=np.int64)
    per_round = max(1, packs // _ROUND)
    for start in range(0, len(owners), per_round):
        added = lengths[start : start + per_round]
        emptiest = np.argsort(tokens, kind="stable")[: len(added)]
        tokens[emptiest] += added.astype(tokens.dtype)
        owners[start : start + per_round] = emptiest
    return owners
