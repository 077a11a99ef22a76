"""A task as an objective of the engine: what `bertjobs.train.objective` asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bertjobs.data.batches.order import StreamState
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.files.atomic import new_file, write_json
from bertjobs.finetune.batches import TaskBatch, TaskBatches
from bertjobs.finetune.description import is_same_task, task_files
from bertjobs.finetune.forward import TaskForward, open_forward
from bertjobs.finetune.model import BertForTask, load_weights
from bertjobs.finetune.outputs import Floats
from bertjobs.finetune.validation import DevValidation
from bertjobs.recipe.flops import StepCounts, step_flops
from bertjobs.recipe.size import checkpoint_bytes
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.run.checkpoints import folder_name
from bertjobs.run.directory import PhaseDirectory
from bertjobs.run.result import measured_at
from bertjobs.tasks.metrics.scores import scores_of
from bertjobs.tasks.prepared import PreparedTask, prepared_for
from bertjobs.train.best import Measure
from bertjobs.train.objective import GlobalBatch
from bertjobs.train.ranks import Ranks

LOSS_FIELDS = {"cross_entropy": "loss_nats", "binary_cross_entropy": "loss_nats", "squared_error": "squared_error"}
"""What metrics.jsonl calls the loss; that of a binary cross-entropy is the mean over the outputs."""


@dataclass(frozen=True)
class FineTuning:
    """Fine-tuning on a prepared task; an `Objective`."""

    spec: RunSpec
    phase: PhaseSpec
    prepared: PreparedTask

    @classmethod
    def of(cls, spec: RunSpec) -> FineTuning:
        """The objective of a run of one phase, checked against its data.

        Raises:
            InputError: as in `prepared_for`.
        """
        prepared = prepared_for(spec)
        (phase,) = spec.phases
        if not spec.model.vocab_size:
            spec = replace(spec, model=replace(spec.model, vocab_size=Vocabulary.of_folder(prepared.folder).size))
        return cls(spec, phase, prepared)

    @property
    def data_sha256(self) -> str:
        return self.prepared.sha256

    @property
    def checkpoint_bytes(self) -> int:
        return checkpoint_bytes(self.spec.model, self.spec.model.vocab_size)

    @property
    def losses(self) -> Mapping[str, str]:
        field = self._loss
        return {field: "loss {:g} nats" if field == "loss_nats" else "squared error {:g}"}

    @property
    def scores(self) -> Sequence[str]:
        return [self._loss, self._hits]

    def held_out_scores(self, line: Mapping[str, Any]) -> Sequence[str]:
        """All but those of single classes, which only validation.jsonl has."""
        return [field for field in scores_of(line) if "/" not in field]

    @property
    def best_by(self) -> Measure | None:
        """The task's measure; None without labelled dev data."""
        dev = self.prepared.splits.get("dev")
        return Measure(self.prepared.measure) if dev and dev.facts.labelled else None

    @property
    def _loss(self) -> str:
        return LOSS_FIELDS[self.prepared.head.loss]

    @property
    def _hits(self) -> str:
        return "absolute_error" if self.prepared.head.loss == "squared_error" else "training_accuracy"

    def check_weights(self, folder: Path) -> None:
        """Refuse weights that were trained with another vocabulary."""
        self.prepared.check_weights(folder)

    def open(self, ranks: Ranks, device: torch.device) -> TaskLearner:
        return TaskLearner(self, ranks, device)

    def measures(self, sums: Sequence[float], divisors: Sequence[int]) -> dict[str, float]:
        return {self._loss: sums[0] / divisors[0], self._hits: sums[1] / divisors[0]}

    def step_words(self, line: Mapping[str, Any]) -> str:
        of_epoch = self.prepared.epoch_steps(self.phase.global_batch)
        epochs = f"epoch {line['step'] / of_epoch:.2f}/{self.phase.steps / of_epoch:.4g}"
        if self._loss == "squared_error":
            return f"{epochs}  squared error {line[self._loss]:.4f}  absolute error {line[self._hits]:.4f}"
        return f"{epochs}  loss {line[self._loss]:.4f}  accuracy {line[self._hits]:.1%}"

    def validation_words(self, line: Mapping[str, Any]) -> str:
        names = {field: field.removeprefix("dev_").replace("_", " ") for field in self.held_out_scores(line)}
        scores = ", ".join(f"{name} {line[field]:.4g}" for field, name in names.items())
        words = f"dev {scores} on {line['examples']:,} examples" if scores else "there are no labelled dev examples"
        return "\n".join([words, *(f"  note: {note}" for note in line.get("notes", ()))])


class TaskLearner:
    """`FineTuning` on one rank; a `Learner`."""

    def __init__(self, objective: FineTuning, ranks: Ranks, device: torch.device) -> None:
        spec, prepared = objective.spec, objective.prepared
        ranks.decided(lambda: prepared.check_files(whole=True))
        self._objective, self._ranks, self._device = objective, ranks, device
        self.events: dict[str, dict[str, Any]] = {}
        self.model = self._new_model().to(device)
        freeze(self.model, spec.tune_layers)
        self.forward = self._open_forward(ranks)
        self._budget = spec.pack_tokens(objective.phase)
        self._validation = DevValidation(objective.prepared, self.forward, ranks, spec.precision, self._budget)

    def _new_model(self) -> BertForTask:
        """What is trained, with random weights."""
        spec, head = self._objective.spec, self._objective.prepared.head
        return BertForTask(spec.model, head, activation_checkpointing=spec.activation_checkpointing)

    def _open_forward(self, ranks: Ranks) -> TaskForward:
        spec, device = self._objective.spec, self._device
        return ranks.in_turn(lambda: open_forward(self.model, spec.precision, device, spec.attention))

    @property
    def probe(self) -> TaskBatch:
        """One sequence of eight tokens."""
        return probe(self.model)

    def describe(self) -> str:
        prepared = self._objective.prepared
        train = prepared.splits["train"].facts
        return "\n".join(
            [
                f"task {prepared.task}: {train.examples:,} training examples, {train.tokens:,} tokens in "
                f"{train.rows:,} sequences; packs of at most {self._budget} tokens; "
                f"{self.forward.attention.describe()}",
                *prepared.notes,
            ]
        )

    @contextmanager
    def batches(self, start: StreamState | None) -> Iterator[TaskBatches]:
        objective, ranks = self._objective, self._ranks
        yield TaskBatches(
            objective.prepared.splits["train"],
            objective.prepared.head,
            seed=objective.spec.seed,
            global_batch=objective.phase.global_batch,
            budget=self._budget,
            rank=ranks.rank,
            world_size=ranks.size,
            start=start.step if start else 0,
            sha256=objective.data_sha256,
        )

    def places(self, micro_batches: Sequence[TaskBatch]) -> Sequence[int]:
        return self._ranks.turns(len(micro_batches))

    def count(self, micro_batches: Sequence[TaskBatch]) -> tuple[int, ...]:
        """Scored sequences or tokens, sequences, tokens, and squared lengths."""
        return (
            sum(batch.scored for batch in micro_batches),
            sum(batch.sequences for batch in micro_batches),
            sum(int(batch.lengths.sum()) for batch in micro_batches),
            sum(int((batch.lengths**2).sum()) for batch in micro_batches),
        )

    def global_batch(self, counts: Sequence[int]) -> GlobalBatch:
        scored, sequences, tokens, squared = counts
        spec = self._objective.spec
        step = StepCounts(sequences, 0, tokens, squared)
        return GlobalBatch((max(1, scored),), sequences, tokens, step_flops(spec.model, spec.model.vocab_size, step))

    def validate(self, beat: Callable[[], None]) -> dict[str, float | int]:
        return self._validation.run(beat)

    def load_weights(self, folder: Path) -> tuple[str, ...]:
        """As in `Learner`; a head is only taken from a checkpoint of the same task with the same labels."""
        return load_weights(self.model, folder, with_head=is_same_task(folder, self._objective.prepared))

    def conclude(self, folder: PhaseDirectory, step: int, *, is_current: bool) -> None:
        """Write RESULT.json, the measures of the result and what was tuned with it, and predictions.jsonl, what it
        says of the dev examples."""
        if not is_current:
            load_weights(self.model, folder.checkpoints / folder_name(step), with_head=True)
        outputs = self._validation.outputs_of_model(is_current=is_current)
        self._ranks.decided(lambda: self._write_result(folder, step, outputs))

    def _write_result(self, folder: PhaseDirectory, step: int, outputs: Floats | None) -> None:
        dev = measured_at(folder, step)
        if outputs is not None:
            tuned = dev.get("tuned", {})
            with new_file(folder.predictions) as file:
                for _, prediction in self._validation.predictions(outputs, tuned):
                    file.write((json.dumps(prediction, ensure_ascii=False) + "\n").encode())
        measure = self._objective.best_by  # without it validation.jsonl has lines, but no measures
        content = {"step": step, "measure": measure and measure.field, "dev": dev if measure else None}
        write_json(folder.result, content)

    def description(self) -> dict[str, bytes]:
        with TemporaryDirectory() as folder:
            task_files(self._objective.spec.model, self._objective.prepared, Path(folder))
            return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def freeze(model: BertForTask, layers: int | None) -> None:
    """Train only the last ``layers`` layers, the pooler and the head; None trains all."""
    if layers is None:
        return
    fixed = [model.bert.embeddings, *model.bert.encoder.layer[: len(model.bert.encoder.layer) - layers]]
    for module in fixed:
        module.requires_grad_(False)


def probe(model: BertForTask) -> TaskBatch:
    """As in `Learner.probe`."""
    length, head = 8, model.head
    zeros = torch.zeros(length, dtype=torch.int64)
    read = torch.arange(1 if head.kind == "sequence" else length)
    numbers = {"span": 2, "token": length}.get(head.kind, 1 if head.loss == "cross_entropy" else head.outputs)
    ends = torch.tensor([0, length], dtype=torch.int32)
    lengths = torch.tensor([length]).numpy()
    return TaskBatch(zeros, zeros, torch.arange(length), ends, read, torch.zeros(numbers), lengths, length, 1)
