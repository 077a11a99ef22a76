"""What a run of fine-tuning computes: from its prepared data, whose sequences are far shorter than the longest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bertjobs.errors import InputError
from bertjobs.recipe.flops import FORWARD_SHARE, StepCounts, step_flops
from bertjobs.recipe.spec import ModelSpec, PhaseSpec, RunSpec
from bertjobs.tasks.prepared import PreparedTask, TaskSplit

MOST_READ = 100_000
"""Sequences whose lengths are read: of more, as many that are spread evenly."""


@dataclass(frozen=True)
class TaskWork:
    """A prepared task as far as it decides the time of a run.

    Attributes:
        train: its training sequences, each read once.
        dev: the labelled dev sequences, which each validation reads.
    """

    train: StepCounts
    dev: StepCounts

    @property
    def mean_tokens(self) -> float:
        return self.train.tokens / self.train.sequences

    def epoch_steps(self, phase: PhaseSpec) -> float:
        """Optimizer steps in which the training data are read once."""
        return self.train.sequences / phase.global_batch

    def epochs(self, phase: PhaseSpec) -> float:
        return phase.steps / self.epoch_steps(phase)

    def flops_per_sequence(self, model: ModelSpec) -> float:
        """Forward and backward, on average over the training sequences."""
        return step_flops(model, 0, self.train) / self.train.sequences

    def sequences(self, model: ModelSpec, phase: PhaseSpec) -> float:
        """Training sequences of a phase, and those that take as long as its validations."""
        validated = validations(phase) * FORWARD_SHARE * step_flops(model, 0, self.dev)
        return phase.steps * phase.global_batch + validated / self.flops_per_sequence(model)


def validations(phase: PhaseSpec) -> int:
    """How often a phase is validated: every so many steps, and after the last."""
    return -(-phase.steps // phase.validate_every) if phase.validate_every else 1


def work_of(spec: RunSpec) -> TaskWork | None:
    """The work of a run that fine-tunes; None for pretraining, or if its data are not prepared, or damaged."""
    if not spec.task:
        return None
    try:
        return _work(PreparedTask.read(Path(spec.data)).splits)
    except (InputError, OSError):  # the checks of the data name it
        return None


def _work(splits: Mapping[str, TaskSplit]) -> TaskWork:
    dev = [_counts(split) for name, split in splits.items() if name.startswith("dev") and split.facts.labelled]
    total = StepCounts(*(sum(column) for column in zip(StepCounts(0, 0, 0, 0), *dev, strict=True)))
    return TaskWork(_counts(splits["train"]), total)


def _counts(split: TaskSplit) -> StepCounts:
    lengths = split.lengths[:: -(-split.rows // MOST_READ)].astype(np.int64)
    squares = float((lengths**2).mean())
    return StepCounts(split.rows, 0, split.facts.tokens, round(squares * split.rows))
