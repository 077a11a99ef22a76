"""How many tokens a pack may have: fewer than memory allows, if then the packs of a step can be divided over the ranks.

All ranks take the same number of packs in a step, so that with 107 packs on 64 ranks 21 of 128 places stay empty.
Smaller packs help: 128 of them. They must not depend on the number of ranks (dropout is drawn by pack), so their number
is one that most numbers of ranks divide: a multiple of a power of two, decided from the global batch alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from bertjobs.data.batches.packing import Ints, PackLimits, dealt, pack

MORE = 1.5
"""Packs are made smaller until they are at most this many times as many: small ones compute more slowly."""

MOST_RANKS = 1024
"""The largest power of two that divides the number of packs on purpose: NVIDIA's largest published run of BERT-large
with LAMB, on DGX-2, has so many GPUs."""

_DEVIATIONS = 2.0  # of the global batch's tokens, that the largest packs leave to chance
_LOSS = 0.01  # of the useful share, that a number which divides well may cost on the average of the numbers of ranks
_BATCHES = 16  # at most so many global batches are dealt to see how even packs become
_QUANTILES = 64
_FINE = 0.01  # of a budget: it is rounded to at most this share of it,
_STEPS = (128, 64, 32, 16)  # and to the largest of these numbers that allows that: they suit tensor cores


@dataclass(frozen=True)
class Load:
    """The tokens of a global batch: their mean and standard deviation over the batches."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, lengths: Ints, global_batch: int, mean_length: float) -> Load:
        """The load of random draws of ``global_batch`` sequences.

        Args:
            lengths: ``[sequences]``, tokens of each in a sample.
            mean_length: mean tokens of all sequences.
        """
        return cls(global_batch * mean_length, math.sqrt(global_batch) * float(lengths.std()))

    @property
    def margin(self) -> float:
        """How many deviations above the mean packs hold at the least cost.

        One more deviation costs deviation / mean of the computing. It saves the batches that it holds a further round
        of packs, which at the worst, with one pack per rank, costs as much as the step. The two are equal where the
        normal density is deviation / mean.
        """
        ratio = math.sqrt(2 * math.pi) * self.deviation / self.mean
        return math.sqrt(-2 * math.log(ratio)) if 0 < ratio < 1 else 0.0

    def at(self, deviations: float) -> float:
        """Tokens so many deviations above the mean."""
        return self.mean + deviations * self.deviation


@dataclass(frozen=True)
class PackBudget:
    """How large packs are.

    Attributes:
        tokens: in a pack at most.
        packs: of a global batch where that many hold it, 1 for as few as possible.
        filled: mean tokens of the packs whose fullest is full.
    """

    tokens: int
    packs: int
    filled: float

    def useful_share(self, load: Load, world_size: int) -> float:
        """Expected share of the ranks' computing that real tokens get, of 1: tokens of a global batch / (ranks x their
        packs x budget)."""
        normal = NormalDist(load.mean, load.deviation or 1e-9)
        totals = [normal.inv_cdf((number + 0.5) / _QUANTILES) for number in range(_QUANTILES)]
        counts = [max(self.packs, math.ceil(tokens / self.filled - 1e-9)) for tokens in totals]
        places = world_size * sum(math.ceil(count / world_size) for count in counts) / _QUANTILES
        return load.mean / (places * self.tokens)


def budget_for(most: int, max_length: int, lengths: Ints, global_batch: int, mean_length: float) -> PackBudget:
    """The budget of the packs of a run. A pure function of the arguments, of which none depends on the ranks.

    Args:
        most: the most tokens that memory allows in a pack.
        max_length: tokens of the longest sequence.
        lengths: ``[sequences]``, tokens of each in a sample of the data.
        global_batch: sequences per step, over all ranks.
        mean_length: mean tokens of all sequences of the data.
    """
    load = Load.of(lengths, global_batch, mean_length)
    batches = _batches(lengths, global_batch)
    few = _as_few_as_possible(most, max_length, batches)
    even = _divisible(most, max_length, batches, load)
    ranks = [2**power for power in range(11) if 2**power <= min(MOST_RANKS, math.ceil(load.mean / few.filled))]

    def share(budget: PackBudget) -> float:
        return sum(budget.useful_share(load, size) for size in ranks)

    return few if even is None or share(few) > share(even) + _LOSS * len(ranks) else even


def _as_few_as_possible(most: int, max_length: int, batches: Ints) -> PackBudget:
    free = PackLimits(most, len(batches[0]) + most, 1, max_length)
    packs = len(pack(batches[0], np.zeros_like(batches[0]), free))
    return PackBudget(most, 1, most - _unevenness(batches, packs))


def _divisible(most: int, max_length: int, batches: Ints, load: Load) -> PackBudget | None:
    """Packs in a number that many numbers of ranks divide; None if even one sequence per pack needs a larger budget."""
    global_batch = batches.shape[1]
    fewest = max(1, math.ceil(load.at(_DEVIATIONS) / most))
    while fewest <= global_batch:
        packs = _rounded_up(fewest, global_batch)
        uneven = _unevenness(batches, packs)
        needed = load.at(_DEVIATIONS) / packs + uneven
        if needed <= most:
            tokens = min(most, max(max_length, _aligned(load.at(load.margin) / packs + uneven)))
            return PackBudget(tokens, packs, tokens - uneven)
        fewest = max(packs + 1, math.ceil(packs * needed / most))
    return None


def _rounded_up(fewest: int, most: int) -> int:
    """The multiple of the largest power of two that is not far above ``fewest``, and at most ``most``."""
    packs, power = fewest, 1
    while power < MOST_RANKS:
        power *= 2
        multiple = math.ceil(fewest / power) * power
        if multiple <= min(MORE * fewest, most):
            packs = multiple
    return packs


def _batches(lengths: Ints, global_batch: int) -> Ints:
    """Some global batches from a sample: ``[batches, global_batch]``, the lengths of each falling."""
    count = max(1, min(_BATCHES, len(lengths) // global_batch))
    return -np.sort(-np.resize(lengths, (count, global_batch)), axis=1)


def _unevenness(batches: Ints, packs: int) -> float:
    """Tokens by which the fullest of the packs exceeds their mean, averaged over some batches."""
    excess = [np.bincount(dealt(batch, packs), batch, packs).max() - batch.sum() / packs for batch in batches]
    return float(np.mean(excess))


def _aligned(tokens: float) -> int:
    step = next((step for step in _STEPS if step <= _FINE * tokens), _STEPS[-1])
    return math.ceil(tokens / step) * step
