"""What a worker trains, as the rest of train/ sees it: contract 6 of the design.

An objective has two forms. `Objective` is what is known before any tensor exists: the recipe, the values in it that
depend on the data, and the names of its losses. `Objective.open` makes a `Learner` of it on each rank: a model on the
device, and checked data. The loop, the checkpoint writer, the watchdog and the metrics know only these two, not the
model.

An implementation decides four things:

- which micro-batches a step has: `Learner.batches`, a pure function of (data, seed, step) that is cut by rank;
- what a micro-batch adds to the step: `Learner.forward`, which returns a `Term` for each summand of the loss;
- how the model is scored on held-out data: `Learner.validate`;
- which files besides the weights make a checkpoint's folder loadable: `Learner.description`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bertjobs.data.batches.order import StreamState
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import PhaseDirectory
from bertjobs.train.best import Measure
from bertjobs.train.ranks import Ranks

MicroBatch = Any
"""The input of one forward and backward pass, on the host: only the objective that makes it looks inside."""


@dataclass(frozen=True)
class Term:
    """One summand of the loss over one micro-batch; all are scalars on the model's device.

    Attributes:
        loss_sum: the sum of the losses of all tokens, sequences or examples, with its gradient; float32.
        count: how many there are. A micro-batch without any has sums of 0 that still depend on the parameters.
        score_sums: other sums over the same, without a gradient: hits, absolute errors.
    """

    loss_sum: Tensor
    count: Tensor
    score_sums: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class GlobalBatch:
    """What all ranks know about a step's batch before they compute it; padding is not counted.

    Attributes:
        divisors: for each `Term`, its count over all ranks and micro-batches, by which its sums are divided.
        sequences, tokens: how many there are.
        flops: floating-point operations of the forward and backward passes.
    """

    divisors: tuple[int, ...]
    sequences: int
    tokens: int
    flops: float


class Batches(Protocol):
    """One rank's micro-batches, optimizer step after optimizer step, without end.

    The global batch of a step follows from (data, seed, step) alone, whatever the number of ranks, workers and
    restarts. All ranks get at least one micro-batch, an empty one if need be: gradients travel with the last.
    """

    def __next__(self) -> Sequence[MicroBatch]:
        """The next step's.

        Raises:
            InputError: the data are damaged, or were changed during the training.
        """

    def state(self, step: int) -> StreamState:
        """The position in the data after ``step`` steps of the phase, for the checkpoint of that step."""

    def samples(self, step: int) -> list[str]:
        """Names of the samples in the global batch of step number ``step``, from 0; [] if they are not known."""

    def deal(self, step: int, seconds: Sequence[float], gain: float) -> tuple[int, ...] | None:
        """From step number ``step`` on, give fast ranks more micro-batches, if that shortens a step by the share
        ``gain`` at least. All ranks call it alike, before they read that step.

        Args:
            seconds: per micro-batch, by rank.

        Returns:
            The micro-batches of each rank; None if nothing was changed, or if these batches cannot be dealt otherwise.
        """


class Learner(Protocol):
    """An objective on one rank, with its model on the device and its data checked. All ranks call the same methods in
    the same order."""

    @property
    def model(self) -> nn.Module:
        """What is trained and saved: float32 parameters on the device, named as in a checkpoint."""

    @property
    def forward(self) -> nn.Module:
        """Takes a micro-batch, which it moves to the device; returns a sequence with a `Term` for each summand of the
        loss. Its parameters are the model's."""

    @property
    def probe(self) -> MicroBatch:
        """The smallest micro-batch that gives every parameter a gradient. No step trains on it."""

    @property
    def events(self) -> Mapping[str, Mapping[str, Any]]:
        """What opening the data adds to the journal: fields by event."""

    def describe(self) -> str:
        """How micro-batches are computed: one line for the log."""

    def batches(self, start: StreamState | None) -> AbstractContextManager[Batches]:
        """The batches from a checkpoint's position in the data, or from the beginning; threads stop at its exit."""

    def places(self, micro_batches: Sequence[MicroBatch]) -> Sequence[int]:
        """The number of each among all of its step, whatever rank computes it: dropout follows from it."""

    def count(self, micro_batches: Sequence[MicroBatch]) -> tuple[int, ...]:
        """Counts of what a rank's micro-batches contain, to be summed over ranks; always the same number of counts."""

    def global_batch(self, counts: Sequence[int]) -> GlobalBatch:
        """The step's global batch, from the sums of those counts."""

    def validate(self, beat: Callable[[], None]) -> dict[str, float | int]:
        """Score the model on all held-out data: fields of validation.jsonl, with units in their names.

        ``beat`` is to be called for each micro-batch, for the watchdog. The model is left in training mode.
        """

    def load_weights(self, folder: Path) -> tuple[str, ...]:
        """Copy a folder's weights into the model; returns the parameters that it lacks, which stay as they are.

        Raises:
            InputError: they cannot be read, or belong to another model.
        """

    def conclude(self, folder: PhaseDirectory, step: int, *, is_current: bool) -> None:
        """Write beside the checkpoints what is to be known of the result, the checkpoint of ``step``, before the phase
        is done. All ranks call it; ``is_current`` says that the model has that checkpoint's weights."""

    def description(self) -> Mapping[str, bytes]:
        """The small files that make a folder of weights loadable, by name; the same in all checkpoints.

        Raises:
            InputError: they cannot be made.
        """


class Objective(Protocol):
    """What a job trains, before any tensor exists; the same on all ranks."""

    @property
    def spec(self) -> RunSpec:
        """The run, with the values that depend on the data filled in."""

    @property
    def data_sha256(self) -> str:
        """Identifies the data in checkpoints: a phase only resumes on the same data."""

    @property
    def checkpoint_bytes(self) -> int:
        """The approximate size of a checkpoint."""

    @property
    def losses(self) -> Mapping[str, str]:
        """Fields of metrics.jsonl that must be finite, each with its words in errors: ``"cross-entropy {:g} nats"``."""

    @property
    def scores(self) -> Sequence[str]:
        """Fields of metrics.jsonl that TensorBoard shows, beside those of every run."""

    def held_out_scores(self, line: Mapping[str, Any]) -> Sequence[str]:
        """Those fields of a line of validation.jsonl that TensorBoard shows."""

    @property
    def best_by(self) -> Measure | None:
        """By what the best checkpoint, the phase's result, is chosen; None: the last checkpoint is the result."""

    def check_weights(self, folder: Path) -> None:
        """Make sure that training may start from a folder's weights.

        Raises:
            InputError: it may not.
        """

    def open(self, ranks: Ranks, device: torch.device) -> Learner:
        """Check the data, the ranks sharing the work, and make the model; torch's global generator is already seeded.

        Raises:
            InputError: the data are damaged, or the device lacks something that the recipe names.
        """

    def measures(self, sums: Sequence[float], divisors: Sequence[int]) -> dict[str, float]:
        """A step's own fields of metrics.jsonl, with units in their names.

        Args:
            sums: over the global batch, term by term: its loss, then its scores.
            divisors: as in `GlobalBatch`.
        """

    def step_words(self, line: Mapping[str, Any]) -> str:
        """The losses of a line of metrics.jsonl, for the log."""

    def validation_words(self, line: Mapping[str, Any]) -> str:
        """A line of validation.jsonl, for the log."""


ObjectiveOf = Callable[[RunSpec], Objective]
"""Makes the objective of a run of one phase; raises InputError if its data are not valid for it."""
