"""BERT's pretraining as an objective: what `bertjobs.train.objective` asks for, from the pieces of this room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bertjobs.data.batches.batches import Batch, MicroBatch
from bertjobs.data.batches.lddl_loader import check_lddl_loader
from bertjobs.data.batches.order import StreamState
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import initialise_from, write_description
from bertjobs.recipe.flops import StepCounts, step_flops
from bertjobs.recipe.size import checkpoint_bytes
from bertjobs.recipe.spec import ModelSpec, PhaseSpec, RunSpec
from bertjobs.run.directory import PhaseDirectory
from bertjobs.train.best import Measure
from bertjobs.train.objective import GlobalBatch
from bertjobs.train.pretraining.batches import PhaseBatches, WatchedBatches
from bertjobs.train.pretraining.forward import Forward, choose_fused_layers, model_of, open_forward
from bertjobs.train.pretraining.measures import (
    LOSSES,
    NEXT_SENTENCE,
    SCORES,
    counts_of,
    divisors_of,
    measures,
    step_words,
    validation_words,
)
from bertjobs.train.pretraining.shards import PhaseShards, open_shards
from bertjobs.train.pretraining.validation import Validation
from bertjobs.train.ranks import Ranks


@dataclass(frozen=True)
class Pretraining:
    """Pretraining on prepared data; an `Objective`.

    Attributes:
        spec: with the model's vocab_size filled in.
        token_budget: the most tokens per pack: it needs at most the memory of the recipe's padded micro-batch. Packs
            may be smaller, see `bertjobs.data.batches.budget`. None pads.
    """

    spec: RunSpec
    phase: PhaseSpec
    data: DataManifest
    token_budget: int | None

    _minimised = "mlm_loss_nats"
    measures = staticmethod(measures)
    step_words = staticmethod(step_words)
    validation_words = staticmethod(validation_words)

    @classmethod
    def of(cls, spec: RunSpec) -> Pretraining:
        """The objective of a run of one phase, checked against its data.

        Raises:
            InputError: the data are not as the run needs them.
        """
        data = DataManifest.read(Path(spec.data))
        data.check(spec)
        if spec.loader == "lddl":
            check_lddl_loader(data, spec)
        (phase,) = spec.phases
        budget = spec.pack_tokens(phase) if spec.is_unpadded else None
        return cls(data.sized(spec), phase, data, budget)

    @property
    def best_by(self) -> Measure | None:
        """The held-out loss, if the recipe wants the best checkpoint and not the last."""
        return Measure(self._minimised, less=True) if self.phase.keep_best else None

    @property
    def losses(self) -> Mapping[str, str]:
        return {field: words for field, words in LOSSES.items() if self._has(field)}

    @property
    def scores(self) -> Sequence[str]:
        return [field for field in SCORES if self._has(field)]

    def held_out_scores(self, line: Mapping[str, Any]) -> Sequence[str]:
        return [field for field in self.scores if field in line]

    def _has(self, field: str) -> bool:
        return self.spec.next_sentence or field not in NEXT_SENTENCE

    @property
    def data_sha256(self) -> str:
        return self.data.sha256

    @property
    def checkpoint_bytes(self) -> int:
        return checkpoint_bytes(self.spec.model, self.spec.model.vocab_size)

    def check_weights(self, folder: Path) -> None:
        """Refuse weights that were trained with another vocabulary."""
        self.data.check_weights(folder)

    def open(self, ranks: Ranks, device: torch.device) -> PretrainingLearner:
        return PretrainingLearner(self, ranks, device)


class PretrainingLearner:
    """`Pretraining` on one rank; a `Learner`."""

    def __init__(self, objective: Pretraining, ranks: Ranks, device: torch.device) -> None:
        spec, phase, data = objective.spec, objective.phase, objective.data
        self._objective, self._device, self._ranks = objective, device, ranks
        shards = open_shards(data, spec, phase, ranks)
        self.events: dict[str, dict[str, Any]] = {}
        if shards.skipped:
            self.events["skipped shards"] = {"shards": list(shards.skipped)}
        self.model = self._new_model().to(device)
        self.forward = self._open_forward(ranks)
        self._batches = PhaseBatches(data, spec, phase, shards, ranks, device, token_budget=objective.token_budget)
        self._validation = self._open_validation(shards, ranks)

    def _new_model(self) -> BertForPreTraining:
        """What is trained, with random weights."""
        return model_of(self._objective.spec)

    def _open_forward(self, ranks: Ranks) -> Forward:
        spec, device = self._objective.spec, self._device
        layers = ranks.decided(lambda: choose_fused_layers(spec, device, self._objective.token_budget))
        return ranks.in_turn(lambda: open_forward(self.model, spec, device, layers))

    def _open_validation(self, shards: PhaseShards, ranks: Ranks) -> Validation:
        spec, size = self._objective.spec, self._objective.phase.micro_batch
        return Validation(shards, ranks, self._device, batch_size=size, precision=spec.precision)

    @property
    def probe(self) -> Batch:
        """One sequence of eight tokens, all masked."""
        return probe(self._device)

    def describe(self) -> str:
        return self.forward.describe()

    def batches(self, start: StreamState | None) -> AbstractContextManager[WatchedBatches]:
        return self._batches.opened(start, self.forward)

    def places(self, micro_batches: Sequence[MicroBatch]) -> Sequence[int]:
        turns = self._ranks.turns(len(micro_batches))
        return [turn if isinstance(one, Batch) else one.number for turn, one in zip(turns, micro_batches, strict=True)]

    def count(self, micro_batches: Sequence[MicroBatch]) -> StepCounts:
        return counts_of(micro_batches)

    def global_batch(self, counts: Sequence[int]) -> GlobalBatch:
        step = StepCounts(*counts)
        spec = self._objective.spec
        flops = step_flops(spec.model, spec.model.vocab_size, step, next_sentence=spec.next_sentence)
        divisors = divisors_of(step, next_sentence=spec.next_sentence)
        return GlobalBatch(divisors, step.sequences, step.tokens, flops)

    def validate(self, beat: Callable[[], None]) -> dict[str, float | int]:
        return self._validation.run(self.model, beat)

    def conclude(self, folder: PhaseDirectory, step: int, *, is_current: bool) -> None:
        """There is nothing to add: the checkpoint says it all."""

    def load_weights(self, folder: Path) -> tuple[str, ...]:
        return initialise_from(self.model, folder)

    def description(self) -> dict[str, bytes]:
        model, data = self.model, self._objective.data
        heads = {"next_sentence": model.next_sentence, "masked_words": self.learns_words}
        return description_of(model.spec, data.vocabulary_path, lowercase=data.lowercase, **heads)

    @property
    def learns_words(self) -> bool:
        """Whether the masked-LM head is trained."""
        return True


def description_of(
    spec: ModelSpec, vocabulary: Path, *, lowercase: bool, next_sentence: bool = True, masked_words: bool = True
) -> dict[str, bytes]:
    """As in `Learner.description`: a Hugging Face folder's files besides the weights: configuration and tokenizer.

    Raises:
        InputError: the vocabulary cannot be read, or is larger than the model's.
    """
    with TemporaryDirectory() as folder:
        heads = {"next_sentence": next_sentence, "masked_words": masked_words}
        write_description(spec, vocabulary, Path(folder), lowercase=lowercase, **heads)
        return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def probe(device: torch.device) -> Batch:
    """As in `Learner.probe`."""
    tokens = torch.zeros(1, 8, dtype=torch.int64, device=device)
    return Batch(tokens, tokens, torch.ones_like(tokens), tokens, tokens[:, 0])
