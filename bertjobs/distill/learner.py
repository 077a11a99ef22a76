"""What the learners of general distillation and of that on a task share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import nn

from bertjobs.distill.student import load_beside, start_from_teacher
from bertjobs.recipe.distillation import Matching
from bertjobs.recipe.spec import ModelSpec, RunSpec


class Distillation(Protocol):
    """The objective of either, as far as these functions need it."""

    @property
    def spec(self) -> RunSpec: ...
    @property
    def teacher(self) -> ModelSpec: ...
    @property
    def matching(self) -> Matching: ...
    @property
    def terms(self) -> tuple[str, ...]: ...


def teacher_words(objective: Distillation) -> str:
    """The line of a rank's log about the teacher and what is learnt from it."""
    teacher, layers = objective.teacher, ", ".join(map(str, objective.matching.layers))
    return (
        f"teacher {objective.spec.teacher}: {teacher.num_hidden_layers} layers, hidden {teacher.hidden_size}; "
        f"the student's layers correspond to {layers}; its loss is of {', '.join(objective.terms)}"
    )


def load_student(
    model: nn.Module, objective: Distillation, folder: Path, load: Callable[[Path], tuple[str, ...]]
) -> tuple[str, ...]:
    """As in `Learner.load_weights`; of the teacher itself, what the student can use (`start_from_teacher`).

    Args:
        load: how weights are loaded without a teacher.
    """
    spec = objective.spec
    if folder == Path(spec.teacher):
        return start_from_teacher(model, spec.model, folder, objective.teacher, objective.matching)
    return load_beside(model, folder, load(folder))
