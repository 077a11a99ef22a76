"""Distillation on a task as an objective: fine-tuning, with a fine-tuned teacher beside the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bertjobs.distill.learner import load_student, teacher_words
from bertjobs.distill.student import add_projections
from bertjobs.distill.task_forward import TaughtForward
from bertjobs.distill.task_labels import check_task_teacher
from bertjobs.distill.teacher import open_fine_tuned
from bertjobs.distill.terms import means, terms_of
from bertjobs.finetune.model import BertForTask
from bertjobs.finetune.objective import FineTuning, TaskLearner
from bertjobs.recipe.distillation import Matching
from bertjobs.recipe.flops import FORWARD_SHARE, StepCounts, step_flops
from bertjobs.recipe.spec import ModelSpec, RunSpec
from bertjobs.run.teacher import check_same_teacher, teacher_of, with_teacher_sha256
from bertjobs.train.objective import GlobalBatch
from bertjobs.train.ranks import Ranks

FIELDS = {"hidden": "hidden_squared_error", "relations": "relation_loss_nats"}
"""Fields of metrics.jsonl, by term, beside those of fine-tuning, ``distillation_loss`` (the weighted sum that is
minimised) and the distance from the teacher's outputs (`TaskDistillation.soft`)."""


@dataclass(frozen=True)
class TaskDistillation(FineTuning):
    """Distillation of a fine-tuned teacher on its prepared task; an `Objective`.

    Attributes:
        teacher: its shape.
        terms: the summands of the loss, as in `bertjobs.distill.terms`.
    """

    teacher: ModelSpec
    matching: Matching
    terms: tuple[str, ...]

    @classmethod
    def of(cls, spec: RunSpec) -> TaskDistillation:
        """The objective of a run of one phase, checked against its data and its teacher.

        Raises:
            InputError: they are not as the run needs them.
        """
        plain = FineTuning.of(spec)
        teacher, matching = teacher_of(plain.spec)
        folder = Path(spec.teacher)
        plain.check_weights(folder)
        check_task_teacher(folder, plain.prepared)
        terms = terms_of(matching, has_labels=True, has_logits=True)
        return cls(with_teacher_sha256(plain.spec), plain.phase, plain.prepared, teacher, matching, terms)

    @property
    def soft(self) -> str:
        """The field of the distance from the teacher's outputs."""
        return f"soft_{self._loss}"

    @property
    def losses(self) -> Mapping[str, str]:
        return {**super().losses, "distillation_loss": "distillation loss {:g}"}

    @property
    def scores(self) -> Sequence[str]:
        return [*super().scores, "distillation_loss", *self._fields.values()]

    @property
    def _fields(self) -> dict[str, str]:
        """By term, without labels."""
        known = {"logits": self.soft, **FIELDS}
        return {name: known[name] for name in self.terms if name in known}

    def open(self, ranks: Ranks, device: torch.device) -> TaughtLearner:
        return TaughtLearner(self, ranks, device)

    def measures(self, sums: Sequence[float], divisors: Sequence[int]) -> dict[str, float]:
        average = means(self.terms, sums, divisors)
        own = dict(zip((self._loss, self._hits), average.scores["labels"], strict=True))
        beside = {field: average.scores[name][0] for name, field in self._fields.items()}
        return {**own, "distillation_loss": average.total, **beside}

    def step_words(self, line: Mapping[str, Any]) -> str:
        return f"{super().step_words(line)}  distillation loss {line['distillation_loss']:.4f}"


class TaughtLearner(TaskLearner):
    """`TaskDistillation` on one rank; a `Learner`."""

    def __init__(self, objective: TaskDistillation, ranks: Ranks, device: torch.device) -> None:
        self._distilled = objective
        ranks.decided(lambda: check_same_teacher(objective.spec))
        super().__init__(objective, ranks, device)

    def describe(self) -> str:
        return f"{super().describe()}\n{teacher_words(self._distilled)}"

    def global_batch(self, counts: Sequence[int]) -> GlobalBatch:
        scored, sequences, tokens, squared = counts
        objective, step = self._distilled, StepCounts(sequences, 0, tokens, squared)
        own, teacher = objective.spec.model, objective.teacher
        flops = step_flops(own, own.vocab_size, step) + FORWARD_SHARE * step_flops(teacher, teacher.vocab_size, step)
        divisors = {"hidden": tokens, "relations": tokens}
        return GlobalBatch(
            tuple(max(1, divisors.get(name, scored)) for name in objective.terms), sequences, tokens, flops
        )

    def load_weights(self, folder: Path) -> tuple[str, ...]:
        return load_student(self.model, self._distilled, folder, super().load_weights)

    def _new_model(self) -> BertForTask:
        model, objective = super()._new_model(), self._distilled
        add_projections(model, objective.spec.model, objective.teacher, objective.matching)
        return model

    def _open_forward(self, ranks: Ranks) -> TaughtForward:
        objective, device = self._distilled, self._device
        plain = super()._open_forward(ranks)
        head = objective.prepared.head
        teacher = ranks.in_turn(lambda: open_fine_tuned(objective.spec, objective.teacher, head, device))
        return TaughtForward(self.model, plain.attention, teacher, objective.matching)
