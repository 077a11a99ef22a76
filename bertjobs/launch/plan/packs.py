"""The packs of a run, as its worker will choose them from the data, and how much of their computing is useful."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import InputError
from bertjobs.recipe.spec import PhaseSpec, RunSpec


@dataclass(frozen=True)
class Packs:
    """One phase's.

    Attributes:
        count: packs of a global batch.
        is_fixed: nearly every global batch has so many; otherwise their number varies about ``count``.
        tokens: the budget of each.
        useful_share: of what all ranks compute, the share that real tokens get, 0 to 1: tokens without padding / (ranks
            x packs per rank x budget).
    """

    count: int
    is_fixed: bool
    tokens: int
    useful_share: float

    def busy_share(self, ranks: int) -> float:
        """Of the places that as many ``ranks`` have for packs, the share that is filled: all take the same number."""
        return self.count / (ranks * math.ceil(self.count / ranks))

    def words(self) -> str:
        """``128 of 54,656 tokens``."""
        return f"{'' if self.is_fixed else 'about '}{self.count:,} of {self.tokens:,} tokens"


def packs_of(spec: RunSpec, data: DataManifest | None) -> dict[int, Packs]:
    """The packs of each phase; of those alone whose data are there and can be read. {} for a padded run."""
    if data is None or not spec.is_unpadded:
        return {}
    packs = {}
    for phase in spec.phases:
        try:
            packs[phase.phase] = _packs(spec, phase, data)
        except InputError:  # the checks of the data name it
            continue
    return packs


def _packs(spec: RunSpec, phase: PhaseSpec, data: DataManifest) -> Packs:
    from bertjobs.data.batches.budget import Load, budget_for  # here: a plan without data needs no numpy
    from bertjobs.data.shards.lengths import sampled_lengths

    train = data.phase(phase.phase).train
    lengths, mean = sampled_lengths(data, phase.phase), train.tokens / train.rows
    if lengths.max() > phase.sequence_length:
        raise InputError(f"the data of phase {phase.phase} hold longer sequences than it allows", where=spec.data)
    budget = budget_for(spec.pack_tokens(phase), phase.sequence_length, lengths, phase.global_batch, mean)
    load = Load.of(lengths, phase.global_batch, mean)
    count = max(budget.packs, math.ceil(load.mean / budget.filled))
    return Packs(count, budget.packs > 1, budget.tokens, budget.useful_share(load, spec.world_size))
